package ptxsim

import "strings"

// space is a PTX state space.
type space uint8

const (
	spGeneric space = iota
	spGlobal
	spConst
	spShared
	spLocal
	spParam
)

var spaceByName = map[string]space{
	"global": spGlobal, "const": spConst, "shared": spShared, "shared::cta": spShared,
	"local": spLocal, "param": spParam, "param::entry": spParam,
}

func (s space) String() string {
	return [...]string{"generic", "global", "const", "shared", "local", "param"}[s]
}

// program is one parsed PTX text. Nothing in it depends on a device.
type program struct {
	version string // ".version 9.5"
	target  string // ".target sm_80"
	vars    []*variable
	funcs   []*function
	globals map[string]*variable
}

// variable is a memory object: module, function or parameter scope.
type variable struct {
	name     string
	space    space
	typ      dtype
	align    int
	size     int // bytes; 0 for an extern array without bounds
	extern   bool
	init     []byte
	relocs   []reloc // addresses of other variables inside init
	pos, end int     // byte span of a module variable's declaration
	line     int
	off      int // offset within its space (param, local, shared); set when a function is laid out
}

type reloc struct {
	off  int
	name string
}

// function is one .entry or .func.
type function struct {
	name        string
	entry       bool
	params      []*variable
	paramSize   int
	regs        []register
	vars        []*variable // .local and .shared declared in the body
	body        []*statement
	tables      map[string][]string // .branchtargets by label, scope-qualified
	maxThreads  int
	reqThreads  bool
	line        int
	pos, end    int // byte span in the source
	sharedFixed int // bytes of static shared memory
	localSize   int // bytes of local memory a thread
	dynAlign    int
}

type register struct {
	name string
	typ  dtype
}

// statement is one instruction; labels are resolved to indices into body.
type statement struct {
	guard    int // predicate register, -1 for none
	guardNeg bool
	op       string   // base opcode
	mods     []string // dotted suffixes without the dot
	args     []operand
	line     int
	pos, end int   // byte span in the source, guard and semicolon included
	targets  []int // branch targets
	argSpan  [][2]int
	scope    int
}

// opcode is the full dotted name, as errors and counters print it.
func (s *statement) opcode() string {
	if len(s.mods) == 0 {
		return s.op
	}
	return s.op + "." + strings.Join(s.mods, ".")
}

// argKind says what an operand is.
type argKind uint8

const (
	argReg     argKind = iota // reg
	argSpecial                // %tid.x: name
	argImm                    // bits; fp says how they were written
	argVar                    // address of v (+ off)
	argMem                    // [base + off], base a register, a variable or nothing
	argVec                    // {list}
	argPair                   // list[0] | list[1]
	argLabel                  // name
	argSink                   // _
	argList                   // ( ... ) of call
)

type operand struct {
	kind  argKind
	reg   int
	neg   bool // !p or -r
	bits  uint64
	fp    byte // 0 integer, 'f' 0f, 'd' 0d or decimal
	name  string
	v     *variable
	isReg bool // argMem: base is reg
	off   int64
	list  []operand
}

package loader

import (
	"unsafe"

	"github.com/sparserun/sparserun/strictjson"
)

// maxKeysOf bounds the keys of an object by its depth: the outermost may list
// tensors, the one inside it an index's.
var maxKeysOf = [...]int{0, maxTensors + 1, maxTensors, 1 << 14}

// maxValues bounds the values of a configuration.
const maxValues = 1 << 20

// jsonReader reads a part of a file that is JSON, and knows where it lies.
type jsonReader struct {
	*strictjson.Reader
	base int64 // offset in the file
}

// newJSON starts at the beginning of b, which nobody may write to any more.
func newJSON(b []byte, base int64) (*jsonReader, error) {
	text := unsafe.String(unsafe.SliceData(b), len(b)) // a copy would double the header
	r, err := strictjson.New(text, strictjson.Options{
		Keys:  func(depth int) int { return maxKeysOf[min(depth, len(maxKeysOf)-1)] },
		Nodes: maxValues,
		Clone: true,
		Wrap: func(e *strictjson.Error) error {
			switch {
			case e.Kind == strictjson.Duplicate:
				return fault(ErrFormat, e.Key, base+int64(e.Offset), "json: key occurs twice", nil, nil)
			case e.Kind == strictjson.Limit:
				return fault(ErrLimit, "", base+int64(e.Offset), "json: size", e.Want, nil)
			case e.Got == "":
				return fault(ErrFormat, "", base+int64(e.Offset), "json: want "+e.Want+", got the end", nil, nil)
			}
			return fault(ErrFormat, "", base+int64(e.Offset), "json: want "+e.Want, nil, e.Got)
		},
	})
	return &jsonReader{Reader: r, base: base}, err
}

// at is where the reader stands, in the file.
func (r *jsonReader) at() int64 { return r.base + int64(r.Pos()) }

// value reads any value: object, []any, string, number, bool or nil.
func (r *jsonReader) value() (any, error) {
	return strictjson.Tree(r.Reader, func() (object, func(string, any)) {
		o := object{}
		return o, func(key string, v any) { o[key] = v }
	}, func(text string) (any, error) { return number(text), nil })
}

package model

// Ops of networks that are no language models; the names are ONNX's. An image is a
// row: its channels, each height x width, one after the other (NCHW).
const (
	// OpConv: 2-D convolution. weight [outC, inC/groups, kH, kW]. attr Conv.
	OpConv Op = "Conv"
	// OpMaxPool and OpAveragePool: over windows of every channel. attr Pool.
	OpMaxPool     Op = "MaxPool"
	OpAveragePool Op = "AveragePool"
	// OpGlobalAveragePool: the mean of every channel. attr Pool (In only).
	OpGlobalAveragePool Op = "GlobalAveragePool"
	// OpBatchNorm: per channel, (in - mean) / sqrt(var + eps) * weight + bias. attr BatchNorm.
	OpBatchNorm Op = "BatchNormalization"
	// OpLayerNorm: (in - mean) / sqrt(var + eps) * weight + bias over the row. attr LayerNorm.
	OpLayerNorm Op = "LayerNormalization"
	// OpGELU: in * (1 + erf(in/sqrt 2)) / 2. attr GELU, or nil.
	OpGELU Op = "Gelu"
	// OpSiLU: in * sigmoid(in).
	OpSiLU Op = "SiLU"
)

// Image is the geometry of a row that holds an image.
type Image struct{ C, H, W int }

// Size is the width of the row.
func (i Image) Size() int { return i.C * i.H * i.W }

// Conv are the attributes of OpConv.
type Conv struct {
	In, Out          Image
	KernelH, KernelW int
	StrideH, StrideW int
	PadTop, PadLeft  int // the other two follow from Out
	DilationH        int // 0 counts as 1
	DilationW        int
	Groups           int // 0 counts as 1
}

// Pool are the attributes of the pools.
type Pool struct {
	In, Out          Image
	KernelH, KernelW int
	StrideH, StrideW int
	PadTop, PadLeft  int
	CountPad         bool // an average counts what lies in the padding
}

// BatchNorm are the attributes of OpBatchNorm.
type BatchNorm struct {
	In       Image // H, W 1 for plain rows
	Eps      float32
	Momentum float32 // of the running statistics in training: new = (1-m)*old + m*batch; 0 counts as 0.1
	Mean     *Weight // running statistics, used when not training
	Var      *Weight
}

// LayerNorm are the attributes of OpLayerNorm.
type LayerNorm struct{ Eps float32 }

// GELU are the attributes of OpGELU.
type GELU struct{ Tanh bool } // the tanh form

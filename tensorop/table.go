package tensorop

import (
	"math"

	"github.com/sparserun/sparserun/model"
)

// table names every op that there is.
var table = map[model.Op]Func{
	"Add": arith("Add"), "Sub": arith("Sub"), "Mul": arith("Mul"), "Div": arith("Div"), "Mod": arith("Mod"), "Pow": pow,
	"Max": variadic("Max", false), "Min": variadic("Min", false), "Sum": variadic("Add", false), "Mean": variadic("Add", true),
	"BitwiseAnd": bitwise("BitwiseAnd"), "BitwiseOr": bitwise("BitwiseOr"), "BitwiseXor": bitwise("BitwiseXor"), "BitwiseNot": bitNot, "BitShift": bitwise("BitShift"),
	"Equal": compare("Equal"), "Less": compare("Less"), "Greater": compare("Greater"), "LessOrEqual": compare("LessOrEqual"), "GreaterOrEqual": compare("GreaterOrEqual"),
	"And": logical(func(a, b bool) bool { return a && b }), "Or": logical(func(a, b bool) bool { return a || b }), "Xor": logical(func(a, b bool) bool { return a != b }),
	"Not": not, "Where": where, "Clip": narrow(clip), "PRelu": narrow(prelu),

	"Abs": absolute, "Neg": negation, "Sign": plain(sign), "Exp": plain(math.Exp), "Log": plain(math.Log), "Sqrt": plain(math.Sqrt),
	"Reciprocal": plain(func(x float64) float64 { return 1 / x }), "Floor": plain(math.Floor), "Ceil": plain(math.Ceil), "Round": plain(math.RoundToEven),
	"Sin": plain(math.Sin), "Cos": plain(math.Cos), "Tan": plain(math.Tan), "Asin": plain(math.Asin), "Acos": plain(math.Acos), "Atan": plain(math.Atan),
	"Sinh": plain(math.Sinh), "Cosh": plain(math.Cosh), "Tanh": plain(math.Tanh), "Asinh": plain(math.Asinh), "Acosh": plain(math.Acosh), "Atanh": plain(math.Atanh),
	"Erf": plain(math.Erf), "Sigmoid": plain(sigmoid), "Softplus": plain(softplus), "Softsign": plain(func(x float64) float64 { return x / (1 + math.Abs(x)) }),
	"Mish": plain(func(x float64) float64 { return x * math.Tanh(softplus(x)) }),
	"Relu": relu, "Gelu": pointwise(gelu), "LeakyRelu": pointwise(leaky), "Elu": pointwise(elu), "Celu": pointwise(celu), "Selu": pointwise(selu),
	"HardSigmoid": pointwise(hardSigmoid), "HardSwish": pointwise(hardSwish), "ThresholdedRelu": pointwise(thresholded), "Swish": pointwise(swish), "Shrink": pointwise(shrink),
	"IsInf": isInf, "IsNaN": func(c *Call) ([]*T, error) { return test(c, math.IsNaN) },
	"Identity": identity, "Dropout": dropout, "Softmax": softmax("Softmax"), "LogSoftmax": softmax("LogSoftmax"), "Hardmax": softmax("Hardmax"),

	"Cast": cast, "CastLike": cast, "Shape": shapeOf, "Size": sizeOf, "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze,
	"Expand": expand, "ConstantOfShape": constantOfShape, "Range": rangeOp, "Transpose": transpose, "Concat": concat, "Split": split, "Slice": slice,
	"Pad": pad, "Tile": tile, "DepthToSpace": depthToSpace, "SpaceToDepth": spaceToDepth, "Trilu": trilu, "Resize": resize, "Upsample": resize,
	"Gather": gather, "GatherElements": gatherElements, "GatherND": gatherND, "ScatterElements": scatterElements, "Scatter": scatterElements, "ScatterND": scatterND,
	"OneHot": oneHot, "NonZero": nonZero,

	"ReduceSum": reduce("ReduceSum"), "ReduceMean": reduce("ReduceMean"), "ReduceMax": reduce("ReduceMax"), "ReduceMin": reduce("ReduceMin"),
	"ReduceProd": reduce("ReduceProd"), "ReduceL1": reduce("ReduceL1"), "ReduceL2": reduce("ReduceL2"), "ReduceSumSquare": reduce("ReduceSumSquare"),
	"ReduceLogSum": reduce("ReduceLogSum"), "ReduceLogSumExp": reduce("ReduceLogSumExp"),
	"ArgMax": arg(true), "ArgMin": arg(false), "TopK": topK, "CumSum": cumulate, "CumProd": cumulate,

	"MatMul": narrow(matmul), "Gemm": narrow(gemm), "Einsum": narrow(einsum),
	"Conv": narrow(conv), "ConvTranspose": narrow(convTranspose),
	"MaxPool": pool("MaxPool"), "AveragePool": pool("AveragePool"), "LpPool": pool("LpPool"),
	"GlobalAveragePool": globalPool("ReduceMean"), "GlobalMaxPool": globalPool("ReduceMax"),
	"BatchNormalization": narrow(batchNorm), "InstanceNormalization": groupNorm(true), "GroupNormalization": groupNorm(false),
	"LayerNormalization": rowNorm(true), "RMSNormalization": rowNorm(false), "LRN": narrow(lrn), "LpNormalization": narrow(lpNorm),
	"Attention": attention, "RotaryEmbedding": narrow(rotary),
	"LSTM": narrow(rnn), "GRU": narrow(rnn), "RNN": narrow(rnn),

	"QuantizeLinear": quantize, "DequantizeLinear": dequantize, "DynamicQuantizeLinear": dynamicQuantize,
	"QLinearMatMul": qlinearMatmul, "QLinearConv": qlinearConv, "MatMulInteger": matmulInteger, "ConvInteger": convInteger,

	"SequenceConstruct": sequenceConstruct, "SequenceEmpty": sequenceEmpty, "SequenceLength": sequenceLength, "SequenceAt": sequenceAt,
	"SequenceInsert": sequenceInsert, "SequenceErase": sequenceErase, "SplitToSequence": splitToSequence, "ConcatFromSequence": concatFromSequence,
	"StringNormalizer": stringNormalizer,
}

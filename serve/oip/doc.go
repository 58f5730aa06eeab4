// Package oip answers the Open Inference Protocol v2 from the models of a registry,
// over HTTP (NewHTTP, /v2/...) and gRPC (NewGRPC), with those of Triton's extensions
// that its clients use: binary tensors, statistics, the model repository,
// /generate and /generate_stream, and ModelStreamInfer.
//
//	HTTP JSON (+ binary tensors) \                     / engine.Batcher (networks)
//	                              > tensors, parameters
//	gRPC contents or raw         /                     \ engine.Engine (language models)
//
// Networks take and give the tensors of their graph; requests are joined to batches
// along the first dimension where the network allows it.
//
// A language model is a model with these tensors:
//
//	inputs   text_input  BYTES [n] or [n, 1]   prompts, or
//	         input_ids   INT64 [T] or [1, T]   the tokens of one prompt
//	         stream, exclude_input_in_output   BOOL [1], sampling_parameters BYTES [1] (JSON): as
//	                                           Triton's vLLM backend has them, all optional
//	outputs  text_output   BYTES, the shape of text_input: the continuation only
//	         finish_reason BYTES, the same: "stop" or "length"
//	         output_ids    INT64 [tokens], if asked for, of one prompt
//	         logits        FP32 [tokens, vocabulary], likewise: what each token was drawn from, before
//	                       temperature, penalties and the like; 1,048,576 numbers at most, so that
//	                       max_tokens must be small (1: the next token's)
//
// Without a list of outputs the first two are given. Parameters of the request say how
// text is continued: max_tokens (16), temperature (0: the likeliest token, so that equal
// requests have equal answers), top_p, top_k, min_p, seed, stop, repetition_penalty,
// frequency_penalty, presence_penalty, ignore_eos, parse_special (special tokens in a
// text count as such), exclude_input_in_output (true). /generate takes text_input and
// these as members of one JSON object, or in its "parameters", and answers
// {model_name, model_version, text_output, finish_reason}; /generate_stream sends such
// objects as server-sent events, each with the next piece of text.
//
// In a ModelStreamInfer a language model answers with pieces, unless the input stream
// is false; the last response has the parameter triton_final_response.
package oip

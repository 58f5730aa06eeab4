// Package openai answers the requests of OpenAI's API from the models of a
// registry: GET /v1/models and /v1/models/{id}, POST /v1/completions,
// /v1/chat/completions and /v1/embeddings.
//
//	body -> strict JSON -> fields, each with its range -> prompt ids -> engine
//	     <- one JSON document, or server-sent events <- events of n streams
//
// A field that this server cannot honour is an error that names it (status 400,
// param), never ignored; Options.Lenient lets unknown ones and those that leave the
// text as it is pass. Beyond OpenAI's fields there are, for text: top_k, min_p,
// repetition_penalty (as vLLM and llama.cpp have them), ignore_eos; for completions:
// parse_special, which reads special tokens out of the prompt; for embeddings: pooling
// ("mean" or "last").
//
// Differences that callers may notice: max_tokens beyond the context ends the text
// with finish_reason "length" where OpenAI refuses; a seed is good for one choice, the
// n-th takes seed+n; logprobs are those of the model's own distribution; an array of
// prompts or n > 1 is admitted as a whole or not at all.
package openai

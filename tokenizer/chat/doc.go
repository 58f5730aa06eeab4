// Package chat renders a conversation to the text that a model was trained on,
// by the Jinja template that comes with the model.
//
//	source -> lex -> parse -> tree;  tree + messages -> Render -> text
//
// The language is the part of Jinja 2 that chat templates use, with the
// settings of Hugging Face transformers (trim_blocks and lstrip_blocks on, no
// HTML escaping): for, if, set, namespace, expressions, filters, tests, the
// string and dict methods, loop, range and raise_exception. Macros, includes
// and inheritance are ErrSyntax, and a function that is not here
// (strftime_now) is undefined.
//
// The text has its special tokens written out, BOS included where the template
// puts one: encode it with tokenizer.EncodeOptions{BOS: tokenizer.Never,
// ParseSpecial: true}. Special tokens that a user wrote in a message are then
// parsed too, as everywhere in the field; refuse or strip them before if users
// are not trusted.
//
// A template is part of a file that nobody should trust. It can read only what
// Render is given and change nothing. Nesting is bounded when it is parsed;
// steps, bytes made, depth of values and time are bounded when it is rendered
// (Limits), so a template that never ends or grows without end is ErrLimit.
package chat

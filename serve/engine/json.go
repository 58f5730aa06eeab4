package engine

import (
	"fmt"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/tokenizer"
)

// NewJSON makes a Constraint under which a text is one JSON object, or, with a
// schema (null or empty: none), a value of that JSON schema. Of JSON schema it knows
// type, properties, required, additionalProperties, enum, const and items; any other
// keyword is an error that wraps ErrSchema and names it. Engine.JSON shares what it
// learns of a vocabulary among requests: prefer it.
func NewJSON(t *tokenizer.Tokenizer, schema []byte) (Constraint, error) {
	return nil, fmt.Errorf("engine: JSON mode: %w", runtime.ErrUnsupported)
}

// JSON is NewJSON for the engine's model.
func (e *Engine) JSON(schema []byte) (Constraint, error) { return NewJSON(e.Tokenizer(), schema) }

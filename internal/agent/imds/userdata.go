// The data that a machine was created with, which pods should not read.

package imds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/podid-io/podid/internal/ascii"
)

// isUserData reports whether a path segment or a JSON field holds the data that the machine was
// created with. It often has secrets in it, such as the credentials to join a cluster.
func isUserData(name string) bool {
	return ascii.EqualFold(name, "userData") || ascii.EqualFold(name, "customData")
}

// WithoutUserData returns an answer that describes the machine, without the fields userData and
// customData at any depth. An answer without them is returned unchanged. It fails if the answer is
// not one JSON value.
func WithoutUserData(body []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber() // numbers stay unchanged
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("the answer is not JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the answer is more than one JSON value")
	}
	if !dropUserData(value) {
		return body, nil
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("the answer cannot be encoded: %w", err)
	}
	return bytes.TrimRight(out.Bytes(), "\n"), nil
}

// dropUserData deletes the fields and reports whether there was one.
func dropUserData(value any) (dropped bool) {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			if isUserData(name) {
				delete(v, name)
				dropped = true
			} else if dropUserData(inner) {
				dropped = true
			}
		}
	case []any:
		for _, inner := range v {
			if dropUserData(inner) {
				dropped = true
			}
		}
	}
	return dropped
}

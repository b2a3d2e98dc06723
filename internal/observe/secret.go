// Values that must not appear in a log, an error or a dump.

package observe

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"log/slog"
)

// mask is printed in place of a Secret.
const mask = "[secret]"

// Secret holds a token, a client secret, a certificate or its password. However it is printed or
// marshaled, a mask appears. Only Reveal returns the value. The zero value is an empty secret.
type Secret struct {
	// A pointer, because fmt calls no methods on unexported fields of other
	// types and would print a plain string found there.
	value *string
}

// NewSecret returns a Secret with the value.
func NewSecret(value string) Secret { return Secret{value: &value} }

// Reveal returns the value. Use it only to send the value to its recipient.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether the value is empty.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// Equal reports whether the values are equal. It takes a time that depends only on their lengths.
func (s Secret) Equal(t Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(t.Reveal())) == 1
}

// String returns a mask.
func (s Secret) String() string { return mask }

// GoString returns a mask.
func (s Secret) GoString() string { return mask }

// Format writes a mask, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(mask)) }

// LogValue returns a mask.
func (s Secret) LogValue() slog.Value { return slog.StringValue(mask) }

// MarshalJSON returns a mask.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(mask) }

// MarshalText returns a mask.
func (s Secret) MarshalText() ([]byte, error) { return []byte(mask), nil }

// ShortID shortens a client or object ID to its first 8 characters and "…": enough to recognize it,
// too little to use it. Shorter IDs are returned unchanged.
func ShortID(id string) string {
	const keep = 8 // the first group of a GUID
	n := 0
	for i := range id {
		if n == keep {
			return id[:i] + "…"
		}
		n++
	}
	return id
}

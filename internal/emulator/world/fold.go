package world

// How Azure compares names.

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fold returns the form of a name that is equal for all spellings of it. As Azure does, it ignores
// the case of letters, and never takes a letter outside ASCII for one of ASCII: the Kelvin sign is
// no k.
func Fold(name string) string {
	return strings.Map(func(r rune) rune {
		lower := unicode.ToLower(unicode.ToUpper(r))
		if r >= utf8.RuneSelf && (lower < utf8.RuneSelf || unicode.ToUpper(r) < utf8.RuneSelf) {
			return r
		}
		return lower
	}, name)
}

// EqualFold reports whether a and b spell one name.
func EqualFold(a, b string) bool { return Fold(a) == Fold(b) }

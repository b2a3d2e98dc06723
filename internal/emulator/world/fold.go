// Comparison of names as Azure does it.

package world

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fold returns a form of a name that is equal for all its spellings. As on Azure, it ignores the
// case of letters and never equates a letter outside ASCII with an ASCII one: the Kelvin sign is
// not a k.
func Fold(name string) string {
	return strings.Map(func(r rune) rune {
		lower := unicode.ToLower(unicode.ToUpper(r))
		if r >= utf8.RuneSelf && (lower < utf8.RuneSelf || unicode.ToUpper(r) < utf8.RuneSelf) {
			return r
		}
		return lower
	}, name)
}

// EqualFold reports whether a and b are spellings of the same name.
func EqualFold(a, b string) bool { return Fold(a) == Fold(b) }

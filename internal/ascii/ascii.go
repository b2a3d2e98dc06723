// Package ascii compares and lowers Azure names by their ASCII letters only.
//
// Azure ignores the case of ASCII letters in resource IDs, client IDs and host names. The functions
// of package strings fold all of Unicode: U+212A (Kelvin sign) then equals "k", and two different
// identities get one key. Use this package for every ID and host name.
package ascii

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// EqualFold reports whether a and b are equal except for the case of ASCII letters.
func EqualFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// ToLower returns s with the letters A to Z in lower case. All other bytes are unchanged.
func ToLower(s string) string {
	if !hasUpper(s) {
		return s
	}
	var lowered strings.Builder
	lowered.Grow(len(s))
	copied := 0
	for i := range len(s) {
		if c := lower(s[i]); c != s[i] { // some letters of a resource ID
			lowered.WriteString(s[copied:i])
			lowered.WriteByte(c)
			copied = i + 1
		}
	}
	lowered.WriteString(s[copied:])
	return lowered.String()
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func hasUpper(s string) bool {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return true
		}
	}
	return false
}

// Loose returns a form of an Azure name that is equal for all spellings that Azure may treat as one
// name. It also ignores the case of letters outside ASCII, but never turns such a letter into an
// ASCII one. Use it to find what podid requested in Azure's responses, where É may come back as é.
// Never use it as a key for what a namespace requests.
func Loose(s string) string {
	if Is(s) || !utf8.ValidString(s) {
		return ToLower(s)
	}
	return strings.Map(looseRune, s)
}

// looseRune folds a letter. Azure compares upper-case forms, so that σ and ς are one.
func looseRune(r rune) rune {
	if r < utf8.RuneSelf {
		return rune(lower(byte(r))) //nolint:gosec // below utf8.RuneSelf
	}
	folded := unicode.ToLower(unicode.ToUpper(r))
	if folded < utf8.RuneSelf || FoldsToASCII(r) {
		return r
	}
	return folded
}

// FoldsToASCII reports whether r is a letter outside ASCII whose other case is an ASCII letter: İ,
// ı, ſ or the Kelvin sign. Such a letter makes a name imitate another one.
func FoldsToASCII(r rune) bool {
	return r >= utf8.RuneSelf && (unicode.ToLower(r) < utf8.RuneSelf || unicode.ToUpper(r) < utf8.RuneSelf)
}

// Is reports whether s contains only ASCII.
func Is(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

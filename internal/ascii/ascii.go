// Package ascii compares and lowers names of Azure by the ASCII letters alone.
//
// Azure ignores the case of ASCII letters in resource IDs, client IDs and host
// names. The functions of package strings fold all of Unicode: U+212A (Kelvin sign) then
// equals "k", and two different identities get one key. Use this package for
// every ID and host name.
package ascii

// EqualFold reports whether a and b are equal but for the case of ASCII letters.
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

// ToLower returns s with the letters A to Z in lower case. All other bytes stay.
func ToLower(s string) string {
	if !hasUpper(s) {
		return s
	}
	lowered := []byte(s)
	for i, c := range lowered {
		lowered[i] = lower(c)
	}
	return string(lowered)
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

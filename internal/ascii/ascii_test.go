package ascii_test

import (
	"testing"

	"github.com/podid-io/podid/internal/ascii"
)

func TestFold(t *testing.T) {
	for _, test := range []struct {
		name, a, b string
		equal      bool
	}{
		{"same", "rg", "rg", true},
		{"case", "RG-Team_A.(1)", "rg-team_a.(1)", true},
		{"Kelvin sign", "\u212aeys", "keys", false},
		{"long s", "\u017fql", "sql", false},
		{"other scripts keep their case", "ÉTÉ", "été", false},
		{"length", "rg", "rg1", false},
		{"not UTF-8", "\xffA", "\xffa", true},
		{"empty", "", "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := ascii.EqualFold(test.a, test.b); got != test.equal {
				t.Errorf("EqualFold(%q, %q) = %v, want %v", test.a, test.b, got, test.equal)
			}
			if got := ascii.ToLower(test.a) == ascii.ToLower(test.b); got != test.equal {
				t.Errorf("ToLower(%q) = %q, ToLower(%q) = %q", test.a, ascii.ToLower(test.a), test.b, ascii.ToLower(test.b))
			}
		})
	}
}

func FuzzFold(f *testing.F) {
	f.Add("Rg", "rG")
	f.Add("\u212a", "k")
	f.Add("\xff\xfe", "\xff\xfe")
	f.Fuzz(func(t *testing.T, a, b string) {
		if ascii.EqualFold(a, b) != (ascii.ToLower(a) == ascii.ToLower(b)) {
			t.Errorf("%q and %q: EqualFold and ToLower disagree", a, b)
		}
	})
}

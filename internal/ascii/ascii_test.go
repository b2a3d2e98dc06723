package ascii_test

import (
	"testing"
	"unicode"
	"unicode/utf8"

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
	f.Add("É", "é")
	f.Fuzz(func(t *testing.T, a, b string) {
		if ascii.EqualFold(a, b) != (ascii.ToLower(a) == ascii.ToLower(b)) {
			t.Errorf("%q and %q: EqualFold and ToLower disagree", a, b)
		}
		if ascii.EqualFold(a, b) && ascii.Loose(a) != ascii.Loose(b) {
			t.Errorf("%q and %q: equal, but not loosely", a, b)
		}
	})
}

func TestLoose(t *testing.T) {
	for _, test := range []struct {
		name, a, b string
		equal      bool
	}{
		{"ASCII", "RG-A", "rg-a", true},
		{"other letters", "ÉTÉ-Ж", "été-ж", true},
		{"final sigma", "ΣΟΦΟΣ", "σοφος", true},
		{"Kelvin sign", "\u212a", "k", false},
		{"long s", "\u017f", "s", false},
		{"long s, upper", "\u017f", "S", false},
		{"dotted I", "\u0130", "i", false},
		{"dotless i", "\u0131", "I", false},
		{"another letter", "é", "è", false},
		{"not UTF-8", "\xff", "\xfe", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := ascii.Loose(test.a) == ascii.Loose(test.b); got != test.equal {
				t.Errorf("Loose(%q) = %q, Loose(%q) = %q", test.a, ascii.Loose(test.a), test.b, ascii.Loose(test.b))
			}
		})
	}
}

// TestEveryLetter: no letter outside ASCII is taken for one of ASCII, and those that Unicode does
// take for one are known by FoldsToASCII.
func TestEveryLetter(t *testing.T) {
	for r := rune(utf8.RuneSelf); r <= unicode.MaxRune; r++ {
		s := string(r)
		for _, folded := range []string{ascii.ToLower(s), ascii.Loose(s)} {
			if folded[0] < utf8.RuneSelf {
				t.Errorf("%U becomes %q", r, folded)
			}
		}
		if loose := ascii.Loose(s); ascii.Loose(loose) != loose {
			t.Errorf("%U: Loose is not stable", r)
		}
		byUnicode := false
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			byUnicode = byUnicode || other < utf8.RuneSelf
		}
		byUnicode = byUnicode || unicode.ToLower(r) < utf8.RuneSelf || unicode.ToUpper(r) < utf8.RuneSelf
		if ascii.FoldsToASCII(r) != byUnicode {
			t.Errorf("FoldsToASCII(%U) = %v, Unicode says %v", r, !byUnicode, byUnicode)
		}
	}
}

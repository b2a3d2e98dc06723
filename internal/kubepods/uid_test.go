package kubepods

import "testing"

func TestUID(t *testing.T) {
	const (
		uid        = "11111111-2222-3333-4444-555555555555"
		underlined = "11111111_2222_3333_4444_555555555555"
		hash       = "0123456789abcdef0123456789abcdef"
	)
	for name, want := range map[string]string{
		"pod" + uid: uid,
		"kubepods-besteffort-pod" + underlined + ".slice":    uid,
		"kubepods-burstable-pod" + underlined + ".slice":     uid,
		"kubepods-pod" + underlined + ".slice":               uid,
		"kubelet-kubepods-pod" + underlined + ".slice":       uid,
		"a-b-kubepods-burstable-pod" + underlined + ".slice": uid,
		"pod" + hash: hash,
		"kubepods-burstable-pod" + hash + ".slice": hash,
		"":                              "",
		"besteffort":                    "",
		"kubepods":                      "",
		"kubepods.slice":                "",
		"pod":                           "",
		"pod-" + uid:                    "",
		"xpod" + uid:                    "",
		"pod" + uid + "x":               "",
		"pod" + underlined:              "",
		"pod" + uid + ".slice":          "",
		"pod" + underlined + ".slice":   "",
		"kubepods-pod" + uid + ".slice": "",
		"kubepods-guaranteed-pod" + underlined + ".slice":        "",
		"xkubepods-pod" + underlined + ".slice":                  "",
		"kubepods-pod" + underlined + ".scope":                   "",
		"kubepods-pod" + underlined + ".slice\n":                 "",
		"pod11111111-2222-3333-4444-55555555555g":                "",
		"podAAAAAAAA-2222-3333-4444-555555555555":                "",
		"kubepods-pod11111111_2222-3333_4444_555555555555.slice": "",
	} {
		if got, ok := UID(name); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t, want %q", name, got, ok, want)
		}
	}
}

package kubepods

import (
	"path"
	"slices"
	"testing"
)

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

// TestFolders: a pod's control group is at one of three places, whose names are those of the pod.
func TestFolders(t *testing.T) {
	const (
		uid        = "11111111-2222-3333-4444-555555555555"
		underlined = "11111111_2222_3333_4444_555555555555"
		hash       = "0123456789abcdef0123456789abcdef"
	)
	for _, tt := range []struct {
		kubepods, uid string
		want          []string
	}{
		{"/c/kubepods", uid, []string{"/c/kubepods/pod" + uid, "/c/kubepods/burstable/pod" + uid, "/c/kubepods/besteffort/pod" + uid}},
		{"/c/a/kubepods", hash, []string{"/c/a/kubepods/pod" + hash, "/c/a/kubepods/burstable/pod" + hash, "/c/a/kubepods/besteffort/pod" + hash}},
		{"/c/kubepods.slice", uid, []string{
			"/c/kubepods.slice/kubepods-pod" + underlined + ".slice",
			"/c/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + underlined + ".slice",
			"/c/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + underlined + ".slice",
		}},
		{"/c/a.slice/a-kubepods.slice", hash, []string{
			"/c/a.slice/a-kubepods.slice/a-kubepods-pod" + hash + ".slice",
			"/c/a.slice/a-kubepods.slice/a-kubepods-burstable.slice/a-kubepods-burstable-pod" + hash + ".slice",
			"/c/a.slice/a-kubepods.slice/a-kubepods-besteffort.slice/a-kubepods-besteffort-pod" + hash + ".slice",
		}},
	} {
		got, err := Folders(tt.kubepods, tt.uid)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s in %s: %q, %v, want %q", tt.uid, tt.kubepods, got, err, tt.want)
		}
		for _, folder := range got {
			if named, ok := UID(path.Base(folder)); !ok || named != tt.uid {
				t.Errorf("%s is named after %q", folder, named)
			}
		}
	}
	for _, wrong := range []string{
		"", ".", "..", "/", uid + "/..", "../" + uid, uid + "\n", underlined, hash[1:], hash + "0", "0123456789ABCDEF0123456789abcdef",
	} {
		if got, err := Folders("/c/kubepods", wrong); err == nil || IsUID(wrong) {
			t.Errorf("%q: %q", wrong, got)
		}
	}
}

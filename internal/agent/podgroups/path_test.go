package podgroups

import "testing"

func TestPodOf(t *testing.T) {
	const uid = "11111111-2222-3333-4444-555555555555"
	for folder, want := range map[string]string{
		"/pod" + uid:                                uid,
		"/besteffort/pod" + uid + "/abcdef":         uid,
		"/burstable/pod" + uid + "/abc/user/nested": uid,
		"/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-abc.scope": uid,
		"/kubepods-pod11111111_2222_3333_4444_555555555555.slice":                                                             uid,
		"/pod0123456789abcdef0123456789abcdef/x":                                                                              "0123456789abcdef0123456789abcdef",
		"/besteffort":                                                                                                         "", "/": "", "": "",
		"/besteffort/pod-" + uid:      "",
		"/besteffort/xpod" + uid:      "",
		"/besteffort/pod" + uid + "x": "",
		// A pod may name groups below its own as it likes.
		"/pod" + uid + "/c/pod99999999-2222-3333-4444-555555555555":              uid,
		"/pod" + uid + "/kubepods-pod99999999_2222_3333_4444_555555555555.slice": uid,
	} {
		if got := podOf(folder); got != want {
			t.Errorf("%s: %q, want %q", folder, got, want)
		}
	}
}

package main

import "testing"

// kubectl runs kubectl-podid for `kubectl podid`; help and errors then name what the user typed.
func TestDisplayName(t *testing.T) {
	for program, want := range map[string]string{
		"podid": "podid", "/usr/local/bin/podid": "podid", "/root/.krew/bin/kubectl-podid": "kubectl podid",
		"kubectl-podid.exe": "kubectl podid", "podid.test": "podid",
	} {
		if got := displayName(program); got != want {
			t.Errorf("%s is called %q, want %q", program, got, want)
		}
	}
}

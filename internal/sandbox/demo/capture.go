package demo

import (
	"fmt"

	"github.com/podid-io/podid/internal/sandbox/network"
)

// CaptureFor checks a user's choice of the way in which NMI captures requests on a data plane. It
// returns that way or, if none is chosen, the chart's default.
func CaptureFor(plane network.Dataplane, way string) (string, error) {
	const wire, prefer = "wire", "prefer"
	_, passes := plane.Cilium()
	passes = passes || plane == network.EBPF
	switch {
	case way != "" && way != wire && way != prefer && way != "require":
		return "", fmt.Errorf("capture %q: use wire, prefer or require", way)
	case passes && way == wire:
		return "", fmt.Errorf("with data plane %s, packets of pods pass by the wire: use capture prefer or require", plane)
	case way == "":
		return prefer, nil
	}
	return way, nil
}

package demo

import (
	"fmt"

	"github.com/podid-io/podid/internal/sandbox/network"
)

// CaptureFor checks a user's choice of the way in which NMI captures requests on a data plane. It
// returns that way or, if none is chosen, the default: the wire where that works.
func CaptureFor(plane network.Dataplane, way string) (string, error) {
	const wire = "wire"
	switch {
	case way != "" && way != wire && way != "prefer" && way != "require":
		return "", fmt.Errorf("capture %q: use wire, prefer or require", way)
	case plane == network.EBPF && way == "":
		return "prefer", nil
	case plane == network.EBPF && way == wire:
		return "", fmt.Errorf("with data plane %s, packets of pods pass by the wire: use capture prefer or require", plane)
	case way == "":
		return wire, nil
	}
	return way, nil
}

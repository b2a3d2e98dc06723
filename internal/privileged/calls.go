// What goes over the connection between an agent and its holder: a call opens a connection, sends
// one request, and receives results until one of them is the last. A call that the agent gives up
// is a connection that it closes.

package privileged

import (
	"errors"
	"net/netip"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/hook/wireprobe"
)

// The names of the sockets in the holder's folder.
const (
	callsName   = "calls.sock"
	socketsName = "holder.sock"
)

// act is what a request is about.
type act string

const (
	actPing     act = "ping"     // Ping
	actOwner    act = "owner"    // Owner
	actTakeBack act = "takeBack" // TakeBack
	actKeep     act = "keep"     // KeepRedirect
	actCapture  act = "capture"  // Capture
	actRetire   act = "retire"   // Retire
	actRelease  act = "release"  // Release
	actEnd      act = "end"      // EndCapture
	actProbe    act = "probe"    // Probe
)

// request is the one packet of a call.
type request struct {
	Act        act             `json:"act"`
	Target     redirect.Target `json:"target"`
	PassAbsent bool            `json:"passAbsent,omitempty"`
	// Question is of Probe.
	Question wireprobe.Question `json:"question,omitzero"`
}

// result is a packet in response.
type result struct {
	Error string `json:"error,omitempty"`
	Last  bool   `json:"last,omitempty"`
	// Refused means that the error is redirect.ErrRefused.
	Refused bool `json:"refused,omitempty"`
	// Found is of Owner and EndCapture.
	Found  bool           `json:"found,omitempty"`
	Secret string         `json:"secret,omitempty"`
	At     netip.AddrPort `json:"at,omitzero"`
	// Set and Repaired are how often the redirect was written since the result before.
	Set      int `json:"set,omitempty"`
	Repaired int `json:"repaired,omitempty"`
	// Probed is of Probe.
	Probed Probed `json:"probed,omitzero"`
}

// err returns the error that a result reports.
func (r result) err() error {
	switch {
	case r.Error == "":
		return nil
	case r.Refused:
		return refused(r.Error)
	default:
		return errors.New(r.Error)
	}
}

// refused is a redirect.ErrRefused from the holder.
type refused string

func (r refused) Error() string { return string(r) }

// Is implements errors.Is.
func (refused) Is(target error) bool { return target == redirect.ErrRefused }

// failed returns the result that reports an error, or none.
func failed(err error) result {
	if err == nil {
		return result{}
	}
	text := err.Error()
	if len(text) > maxError {
		text = text[:maxError] + "…"
	}
	return result{Error: text, Refused: errors.Is(err, redirect.ErrRefused)}
}

// maxError is the size of an error in a packet.
const maxError = 2000

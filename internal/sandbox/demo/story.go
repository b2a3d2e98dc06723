// The timeline of the demonstration, and its verdict.

package demo

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// moment is a kind of event that happens once.
type moment int

const (
	scheduled moment = iota
	created
	patched
	assigned
)

// story collects moments and the output of the two pods. It is safe for concurrent use.
type story struct {
	mu             sync.Mutex
	moments        map[moment]time.Time
	node           string
	bound, unbound []event
}

// note records a moment. Only the first time counts.
func (s *story) note(m moment, at time.Time, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.moments == nil {
		s.moments = map[moment]time.Time{}
	}
	if _, ok := s.moments[m]; !ok {
		s.moments[m] = at
	}
	if node != "" {
		s.node = node
	}
}

// find returns a pod's first event of that kind.
func find(events []event, kind string) (event, bool) {
	i := slices.IndexFunc(events, func(e event) bool { return e.Event == kind })
	if i < 0 {
		return event{}, false
	}
	return events[i], true
}

// verdict returns an error unless the demonstration went as it should.
func (s *story) verdict() error {
	if _, ok := find(s.bound, "token"); !ok {
		return errors.New("the pod with a binding got no token: " + lastText(s.bound))
	}
	if _, ok := find(s.bound, "arm"); !ok {
		return errors.New("Azure did not take the token: " + lastText(s.bound))
	}
	if _, ok := find(s.unbound, "token"); ok {
		return errors.New("the pod without a binding got a token")
	}
	if _, ok := find(s.unbound, "refused"); !ok {
		return errors.New("the pod without a binding was not refused: " + lastText(s.unbound))
	}
	return nil
}

func lastText(events []event) string {
	if len(events) == 0 {
		return "it said nothing"
	}
	return events[len(events)-1].Text
}

// line is one row of the timeline.
type line struct {
	at   time.Time
	text string
}

// timeline returns everything that happened, in order.
func (s *story) timeline() []line {
	texts := map[moment]string{
		scheduled: "pod \"" + boundPod + "\" is scheduled to " + s.node,
		created:   "MIC has written its AzureAssignedIdentity",
		patched:   "MIC has asked Azure to put demo-identity on the nodes' scale set",
		assigned:  "Azure is done: demo-identity is on the scale set",
	}
	var lines []line
	for m, at := range s.moments {
		lines = append(lines, line{at, texts[m]})
	}
	if e, ok := find(s.bound, "started"); ok {
		lines = append(lines, line{e.Time, "the program in the pod asks for a token, with the Azure SDK for Go"})
	}
	if e, ok := find(s.bound, "token"); ok {
		lines = append(lines, line{e.Time, fmt.Sprintf("it has the token, %d ms after it asked", e.TookMS)})
	}
	if e, ok := find(s.bound, "arm"); ok {
		lines = append(lines, line{e.Time, "Azure Resource Manager takes it: " + e.Text})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	return lines
}

// print writes the timeline and the tokens.
func (s *story) print(out io.Writer) error {
	var b strings.Builder
	b.WriteString("\nWhat happened, in seconds since the pod was scheduled:\n\n")
	zero := s.moments[scheduled]
	for _, l := range s.timeline() {
		fmt.Fprintf(&b, "  %6.2f  %s\n", l.at.Sub(zero).Seconds(), l.text)
	}
	if e, ok := find(s.bound, "token"); ok {
		b.WriteString("\nThe token says (its signature is Entra ID's, the token itself stays in the pod):\n\n")
		for _, name := range []string{"aud", "iss", "tid", "oid", "appid", "xms_mirid", "exp"} {
			if v, ok := e.Claims[name]; ok {
				fmt.Fprintf(&b, "  %-10s %v\n", name, claim(name, v))
			}
		}
	}
	if e, ok := find(s.unbound, "refused"); ok {
		fmt.Fprintf(&b, "\nPod %q, whose label no binding selects, was refused after %d ms:\n\n  %s\n", unboundPod, e.TookMS, e.Text)
	}
	if e, ok := find(s.bound, "token"); ok {
		fmt.Fprintf(&b, "\nFrom the pod's scheduling to its token: %.2f s, of which Azure took %.2f s to change the scale set.\n",
			e.Time.Sub(zero).Seconds(), s.moments[assigned].Sub(s.moments[patched]).Seconds())
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// claim formats a token's claim for a person: times as times, not as seconds since 1970.
func claim(name string, v any) any {
	if seconds, ok := v.(float64); ok && name == "exp" {
		return time.Unix(int64(seconds), 0).UTC().Format(time.RFC3339)
	}
	return v
}

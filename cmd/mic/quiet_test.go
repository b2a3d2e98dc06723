package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/observe"
)

func TestQuiet(t *testing.T) {
	const stopped = "error received after stop sequence was engaged"
	for _, c := range []struct {
		name, err, msg string
		want           int
	}{
		{"the elector stopped", "leader election lost", stopped, 0},
		{"another error", "it broke", stopped, 1},
		{"at another place", "leader election lost", "mic ends", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			log := observe.NewLogger(&out, observe.FormatText, 0)
			log = log.WithSink(quiet{log.GetSink()}).WithName("n").WithValues("k", "v")
			log.Error(errors.New(c.err), c.msg)
			if n := strings.Count(out.String(), "level=error"); n != c.want {
				t.Errorf("%d errors, want %d: %s", n, c.want, out.String())
			}
			log.Info("hello")
			if !strings.Contains(out.String(), "msg=hello k=v logger=n") {
				t.Errorf("log %q", out.String())
			}
		})
	}
}

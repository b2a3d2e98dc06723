package logging_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/logging"
	"github.com/podid-io/podid/internal/observe"
)

func TestLogger(t *testing.T) {
	for _, tt := range []struct {
		name, format string
		verbosity    int
		want         []string
	}{
		{"text", "text", 0, []string{
			`level=info msg=hello logger=nmi node=n1 secret=[secret]`, `level=error msg=broken logger=nmi err="why not"`,
		}},
		{"text, more", "text", 4, []string{
			`level=info msg=hello logger=nmi node=n1 secret=[secret]`, `level=debug msg=detail logger=nmi`,
			`level=error msg=broken logger=nmi err="why not"`,
		}},
		{"text, almost more", "text", 3, []string{
			`level=info msg=hello logger=nmi node=n1 secret=[secret]`, `level=error msg=broken logger=nmi err="why not"`,
		}},
		{"negative", "text", -3, []string{
			`level=info msg=hello logger=nmi node=n1 secret=[secret]`, `level=error msg=broken logger=nmi err="why not"`,
		}},
		{"json", "json", 0, []string{
			`{"level":"info","msg":"hello","logger":"nmi","node":"n1","secret":"[secret]"}`,
			`{"level":"error","msg":"broken","logger":"nmi","err":"why not"}`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			log := logging.New(&out, tt.format, tt.verbosity).WithName("nmi")
			log.Info("hello", "node", "n1", "secret", observe.NewSecret("s3cret"))
			log.V(4).Info("detail")
			log.Error(errors.New("why not"), "broken")

			text := regexp.MustCompile(`time=\S+ |"time":"[^"]*",`).ReplaceAllString(out.String(), "")
			if diff := cmp.Diff(tt.want, strings.Split(strings.TrimSpace(text), "\n")); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckLogFormat(t *testing.T) {
	for format, good := range map[string]bool{"text": true, "json": true, "": false, "JSON": false, "xml": false} {
		if err := logging.CheckFormat(format); (err == nil) != good {
			t.Errorf("%q: %v", format, err)
		}
	}
}

func TestJSONLinesParse(t *testing.T) {
	var out bytes.Buffer
	logging.New(&out, logging.FormatJSON, logging.MaxVerbosity).V(logging.MaxVerbosity).Info("odd", "quote", `"`, "newline", "\n", "lonely")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Errorf("%s: %v", out.Bytes(), err)
	}
}

// TestMaxVerbosity checks that no verbosity shows the levels at which client-go logs bodies.
func TestMaxVerbosity(t *testing.T) {
	for _, format := range []string{logging.FormatText, logging.FormatJSON} {
		for _, verbosity := range []int{logging.MaxVerbosity, 8, 10, 1000} {
			log := logging.New(io.Discard, format, verbosity)
			if !log.V(logging.MaxVerbosity).Enabled() || log.V(logging.MaxVerbosity+1).Enabled() || log.V(5).V(3).Enabled() {
				t.Errorf("%s, verbosity %d: not limited to %d", format, verbosity, logging.MaxVerbosity)
			}
		}
	}
}

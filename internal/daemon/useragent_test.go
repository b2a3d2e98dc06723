package daemon

import (
	"flag"
	"io"
	"strings"
	"testing"

	"github.com/podid-io/podid/internal/build"
)

func TestUserAgent(t *testing.T) {
	for text, wrong := range map[string]bool{"": false, "my-cluster (a b)": false, "two\r\nlines": true, "Ümlaut": true} {
		o := &Options{}
		err := o.Parse(Usage{Name: "mic", MetricsPort: "1"}, []string{"--custom-user-agent=" + text}, io.Discard, func(*flag.FlagSet) {})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Validate(); (err != nil) != wrong {
			t.Errorf("%q: %v", text, err)
		}
		if want := strings.TrimSpace(build.UserAgent("mic") + " " + text); !wrong && o.UserAgent("mic") != want {
			t.Errorf("User-Agent %q, want %q", o.UserAgent("mic"), want)
		}
	}
}

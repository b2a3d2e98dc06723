package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary the podid command of the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"podid": main})
}

// TestScripts runs the command lines in testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// TestEmulatorRuns starts the emulator as the command line does, and interrupts it.
func TestEmulatorRuns(t *testing.T) {
	for _, output := range []string{"text", "json"} {
		t.Run(output, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			printed, stdout := io.Pipe()
			code := make(chan int)
			go func() {
				c := run(ctx, []string{
					"emulator", "--dir", t.TempDir(), "-o", output, "--arm-address", "127.0.0.1:0", "--entra-address", "127.0.0.1:0",
					"--imds-address", "127.0.0.1:0", "--control-address", "127.0.0.1:0", "--no-limits", "--update-duration", "7s",
				}, stdout, os.Stderr)
				_ = stdout.Close()
				code <- c
			}()
			control := ready(t, printed)
			answer, err := http.Get(control + "/v1/settings")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = answer.Body.Close() }()
			var settings struct {
				ARM    struct{ UpdateDuration string }
				Limits struct{ Enabled bool }
			}
			if err := json.NewDecoder(answer.Body).Decode(&settings); err != nil {
				t.Fatal(err)
			}
			if settings.ARM.UpdateDuration != "7s" || settings.Limits.Enabled {
				t.Errorf("settings %+v", settings)
			}
			interrupt()
			if c := <-code; c != 0 {
				t.Errorf("exit code %d", c)
			}
		})
	}
}

// ready reads the output until the emulator answers, and returns the URL of its control API.
func ready(t *testing.T, printed io.Reader) string {
	t.Helper()
	control := ""
	for lines := bufio.NewScanner(printed); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "{") {
			var endpoints struct{ Control string }
			if err := json.Unmarshal([]byte(line), &endpoints); err != nil {
				t.Fatal(err)
			}
			return endpoints.Control
		}
		if rest, ok := strings.CutPrefix(line, "control"); ok {
			control = strings.TrimSpace(rest)
		}
		if line == "ready" {
			return control
		}
	}
	t.Fatal("it ended without being ready")
	return ""
}

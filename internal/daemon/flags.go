// Validation of values, flags without effect, and the usage text.

package daemon

import (
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// Positive returns an error about the flag unless its value is more than 0.
func Positive[N ~int | ~int64 | ~float64](name string, value N) error {
	if value > 0 {
		return nil
	}
	return fmt.Errorf("--%s=%v: must be more than 0", name, value)
}

// NotNegative returns an error about the flag if its value is less than 0.
func NotNegative[N ~int | ~int64 | ~float64](name string, value N) error {
	if value >= 0 {
		return nil
	}
	return fmt.Errorf("--%s=%v: must be 0 or more", name, value)
}

// port validates a port number. 0 selects any free port, which the log then shows.
func port(name, value string) error {
	if n, err := strconv.ParseUint(value, 10, 16); err != nil || strconv.FormatUint(n, 10) != value {
		return fmt.Errorf("--%s=%s is not a port: use a number from 1 to 65535", name, value)
	}
	return nil
}

// listenAddress accepts an IP address, or an empty value, which means all.
func listenAddress(name, value string) error {
	if value == "" {
		return nil
	}
	if _, err := netip.ParseAddr(value); err != nil {
		return fmt.Errorf("--%s=%s is not an IP address: use one of this machine, or leave it empty for all", name, value)
	}
	return nil
}

// userAgent accepts what may follow the program's name in a header.
func userAgent(value string) error {
	for _, r := range value {
		if r < ' ' || r > '~' {
			return fmt.Errorf("--custom-user-agent=%q: use printable ASCII characters only", value)
		}
	}
	return nil
}

// deprecated accepts any value and does nothing.
type deprecated struct{ boolean bool }

// String implements flag.Value.
func (deprecated) String() string { return "" }

// Set implements flag.Value.
func (deprecated) Set(string) error { return nil }

// IsBoolFlag reports whether the flag may appear without a value.
func (f deprecated) IsBoolFlag() bool { return f.boolean }

// bindDeprecated accepts the flags of v1.8.17 that no longer have an effect: the daemon's own, and
// klog's about log files.
func bindDeprecated(u Usage, flags *flag.FlagSet) {
	switches := append([]string{
		"enableScaleFeatures",
		"add_dir_header", "alsologtostderr", "logtostderr", "one_output", "skip_headers", "skip_log_headers",
	}, u.OldSwitches...)
	values := append([]string{
		"log_backtrace_at", "log_dir", "log_file", "log_file_max_size", "stderrthreshold", "vmodule",
	}, u.OldFlags...)
	for _, name := range switches {
		flags.Var(deprecated{boolean: true}, name, "accepted for compatibility, has no meaning")
	}
	for _, name := range values {
		flags.Var(deprecated{}, name, "accepted for compatibility, has no meaning")
	}
}

// write lists the flags that have an effect, and then names the deprecated ones.
func (u Usage) write(flags *flag.FlagSet, w io.Writer) {
	_, _ = fmt.Fprintf(w, "%s        (flags work with one dash and with two)\n\n", u.Intro)
	shown := flag.NewFlagSet(u.Name, flag.ContinueOnError)
	shown.SetOutput(w)
	var old []string
	flags.VisitAll(func(f *flag.Flag) {
		if _, ok := f.Value.(deprecated); ok {
			old = append(old, f.Name)
			return
		}
		shown.Var(f.Value, f.Name, f.Usage)
	})
	shown.PrintDefaults()
	_, _ = fmt.Fprintf(w, "\nAccepted for compatibility, without meaning: %s\n\nEnvironment: %s\n", strings.Join(old, ", "), u.Environment)
}

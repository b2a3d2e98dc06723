// Checks of values, flags without meaning, and the usage text.

package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

func positive(name string, value int) error {
	if value > 0 {
		return nil
	}
	return fmt.Errorf("--%s=%d: must be more than 0", name, value)
}

func notNegative(name string, value int) error {
	if value >= 0 {
		return nil
	}
	return fmt.Errorf("--%s=%d: must be 0 or more", name, value)
}

// port takes 0 too, where any free port will do: the log then tells which.
func port(name string, value int, least int) error {
	if value >= least && value <= 65535 {
		return nil
	}
	return fmt.Errorf("--%s=%d is not a port: use a number from 1 to 65535", name, value)
}

// meaninglessFlag accepts any value and does nothing.
type meaninglessFlag struct{ boolean bool }

// String is flag.Value.
func (meaninglessFlag) String() string { return "" }

// Set is flag.Value.
func (meaninglessFlag) Set(string) error { return nil }

// IsBoolFlag lets flags of no value stand alone, as they could.
func (f meaninglessFlag) IsBoolFlag() bool { return f.boolean }

// bindMeaningless accepts the flags of v1.8.17 that have no meaning any more: its
// own, and klog's about log files.
func bindMeaningless(flags *flag.FlagSet) {
	for _, name := range []string{
		"enableScaleFeatures", "enable-conntrack-deletion", "debug",
		"add_dir_header", "alsologtostderr", "logtostderr", "one_output", "skip_headers", "skip_log_headers",
	} {
		flags.Var(meaninglessFlag{boolean: true}, name, "accepted for compatibility, has no meaning")
	}
	for _, name := range []string{
		"MICNamespace", "host-ip", "custom-user-agent",
		"log_backtrace_at", "log_dir", "log_file", "log_file_max_size", "stderrthreshold", "vmodule",
	} {
		flags.Var(meaninglessFlag{}, name, "accepted for compatibility, has no meaning")
	}
}

// usage lists the flags that mean something, and then names the others.
func usage(flags *flag.FlagSet, w io.Writer) {
	_, _ = fmt.Fprint(w, "nmi answers what the pods of its node ask of the Azure instance metadata service.\n\n"+
		"Usage: nmi --node=NAME [flags]        (flags work with one dash and with two)\n\n")
	shown := flag.NewFlagSet("nmi", flag.ContinueOnError)
	shown.SetOutput(w)
	var old []string
	flags.VisitAll(func(f *flag.Flag) {
		if _, ok := f.Value.(meaninglessFlag); ok {
			old = append(old, f.Name)
			return
		}
		shown.Var(f.Value, f.Name, f.Usage)
	})
	shown.PrintDefaults()
	_, _ = fmt.Fprintf(w, "\nAccepted for compatibility, without meaning: %s\n", strings.Join(old, ", "))
	_, _ = fmt.Fprint(w, "\nEnvironment: KUBECONFIG, NODE_NAME (default of --node), FORCENAMESPACED\n")
}

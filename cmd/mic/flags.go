// Checks of values, flags without meaning, and the usage text.

package main

import (
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

func positive(name string, ok bool, value any) error {
	if ok {
		return nil
	}
	return fmt.Errorf("--%s=%v: must be more than 0", name, value)
}

func notNegative(name string, ok bool, value any) error {
	if ok {
		return nil
	}
	return fmt.Errorf("--%s=%v: must be 0 or more", name, value)
}

// objectName checks what will be the name of an object. what is a flag, or in
// capitals a variable of the environment.
func objectName(what, value string) error {
	problems := validation.IsDNS1123Subdomain(value)
	if len(problems) == 0 {
		return nil
	}
	if what != strings.ToUpper(what) {
		what = "--" + what
	}
	return fmt.Errorf("%s=%q cannot be the name of an object: %s", what, value, problems[0])
}

// configMapKey complains about a name that no key of a ConfigMap can have.
func configMapKey(flag, value string) error {
	if problems := validation.IsConfigMapKey(value); len(problems) > 0 {
		return fmt.Errorf("--%s=%q cannot be the key of a ConfigMap: %s", flag, value, problems[0])
	}
	return nil
}

// port takes 0 too: any free port, which the log then tells.
func port(name, value string) error {
	if n, err := strconv.ParseUint(value, 10, 16); err != nil || strconv.FormatUint(n, 10) != value {
		return fmt.Errorf("--%s=%q is not a port: use a number from 1 to 65535", name, value)
	}
	return nil
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
		"enableScaleFeatures",
		"add_dir_header", "alsologtostderr", "logtostderr", "one_output", "skip_headers", "skip_log_headers",
	} {
		flags.Var(meaninglessFlag{boolean: true}, name, "accepted for compatibility, has no meaning")
	}
	for _, name := range []string{
		"update-user-msi-max-retry", "custom-user-agent",
		"log_backtrace_at", "log_dir", "log_file", "log_file_max_size", "stderrthreshold", "vmodule",
	} {
		flags.Var(meaninglessFlag{}, name, "accepted for compatibility, has no meaning")
	}
}

// usage lists the flags that mean something, and then names the others.
func usage(flags *flag.FlagSet, w io.Writer) {
	_, _ = fmt.Fprint(w, "mic keeps Azure identities assigned to the nodes whose pods need them.\n\n"+
		"Usage: mic [flags]        (flags work with one dash and with two)\n\n")
	shown := flag.NewFlagSet("mic", flag.ContinueOnError)
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
	_, _ = fmt.Fprint(w, "\nEnvironment: KUBECONFIG, MIC_POD_NAMESPACE (namespace of the record of attached identities), FORCENAMESPACED, AZURE_ENVIRONMENT_FILEPATH\n")
}

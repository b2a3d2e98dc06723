// The options that all daemons share.

package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/podid-io/podid/internal/build"
	"github.com/podid-io/podid/internal/logging"
)

// Usage holds the texts and flags that differ between daemons.
type Usage struct {
	Name        string
	Intro       string // purpose and usage of the program
	Environment string // the variables that it reads
	Verbosity   string // the content of the log at each level
	MetricsPort string // the default
	// OldFlags and OldSwitches are flags of v1.8.17 without effect, with and without a value.
	OldFlags, OldSwitches []string
}

// Options are the options that all daemons share.
type Options struct {
	Version         bool
	Kubeconfig      string // empty: the service account of the pod
	ForceNamespaced bool

	LogFormat string // logging.FormatText or FormatJSON
	Verbosity int    // klog's

	ProbePort, MetricsPort       string // 0: any free one
	ProbeAddress, MetricsAddress string // empty: all addresses
	Profile                      bool   // serve pprof

	// CustomUserAgent follows the program's name and version in requests to Azure and the API server.
	CustomUserAgent string

	// Deprecated are the given flags that no longer have an effect.
	Deprecated []string

	given map[string]bool
}

// Parse reads the command line. bind binds the daemon's own flags. Parse returns flag.ErrHelp if
// the usage was requested and written to w. After any other error the options hold all valid
// values, so that Validate can add its errors.
func (o *Options) Parse(u Usage, args []string, w io.Writer, bind func(*flag.FlagSet)) error {
	flags := flag.NewFlagSet(u.Name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // Main prints errors, with a hint
	o.bindFlags(u, flags)
	bind(flags)
	err := parseAll(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		u.write(flags, w)
		return err
	}
	o.given = map[string]bool{}
	flags.Visit(func(f *flag.Flag) {
		o.given[f.Name] = true
		if _, ok := f.Value.(deprecated); ok {
			o.Deprecated = append(o.Deprecated, f.Name)
		}
	})
	return err
}

// parseAll continues after an invalid flag so that it reports all of them. Invalid flags keep their
// defaults. It returns flag.ErrHelp unwrapped.
func parseAll(flags *flag.FlagSet, args []string) error {
	var wrong []error
	for {
		err := flags.Parse(args)
		rest := flags.Args()
		if err == nil {
			if len(rest) > 0 {
				wrong = append(wrong, fmt.Errorf("unexpected argument %q: every option is a flag such as --kubeconfig=FILE", rest[0]))
			}
			break
		}
		if errors.Is(err, flag.ErrHelp) {
			if len(wrong) == 0 {
				return err
			}
			break
		}
		wrong = append(wrong, err)
		if len(rest) == len(args) {
			rest = rest[1:] // such as ---x, which Parse leaves there
		}
		for len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
			rest = rest[1:] // may be the value of an unknown flag
		}
		args = rest
	}
	if len(wrong) > 0 {
		useDefaults(flags)
	}
	return errors.Join(wrong...)
}

// useDefaults resets flags whose value could not be parsed.
func useDefaults(flags *flag.FlagSet) {
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	flags.VisitAll(func(f *flag.Flag) {
		if !given[f.Name] {
			_ = f.Value.Set(f.DefValue) // it was the value before
		}
	})
}

func (o *Options) bindFlags(u Usage, flags *flag.FlagSet) {
	flags.BoolVar(&o.Version, "version", false, "print the version and exit")
	flags.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig `file`; without it $KUBECONFIG, else the service account of the pod that "+u.Name+" runs in")
	flags.BoolVar(&o.ForceNamespaced, "forceNamespaced", true,
		"pod, binding and identity must share one namespace; the environment variable FORCENAMESPACED=true demands it too")
	flags.StringVar(&o.LogFormat, "logging-format", logging.FormatText, "log format: text or json")
	flags.StringVar(&o.LogFormat, "log-format", logging.FormatText, "another name of --logging-format")
	flags.IntVar(&o.Verbosity, "v", 0, "log verbosity; "+u.Verbosity+"; at most "+strconv.Itoa(logging.MaxVerbosity)+" is used")
	flags.BoolVar(&o.Profile, "enableProfile", false, "serve pprof on "+profileAddress)
	flags.StringVar(&o.ProbeAddress, "http-probe-address", "", "IP `address` of --http-probe-port, where the kubelet must reach it; empty: all addresses")
	flags.StringVar(&o.MetricsAddress, "prometheus-address", "", "IP `address` of --prometheus-port, such as 127.0.0.1; empty: all addresses")
	flags.StringVar(&o.ProbePort, "http-probe-port", "8080", "`port` of /healthz and /readyz")
	flags.StringVar(&o.MetricsPort, "prometheus-port", u.MetricsPort, "`port` of /metrics")
	flags.StringVar(&o.CustomUserAgent, "custom-user-agent", "", "`text` that follows the program's name and version in the User-Agent of requests to Azure and the API server")
	bindDeprecated(u, flags)
}

// UserAgent returns the name that a daemon sends to Azure and the API server.
func (o *Options) UserAgent(daemon string) string {
	return strings.TrimSpace(build.UserAgent(daemon) + " " + o.CustomUserAgent)
}

// Given reports whether a flag is on the command line.
func (o *Options) Given(name string) bool { return o.given[name] }

// Complete applies the environment. As in v1.8.17 FORCENAMESPACED=true overrides the flag; false
// applies unless the flag is given.
func (o *Options) Complete(getenv func(string) string) error {
	if o.Kubeconfig == "" {
		o.Kubeconfig = getenv("KUBECONFIG")
	}
	value := strings.TrimSpace(getenv("FORCENAMESPACED"))
	if value == "" {
		return nil
	}
	forced, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Errorf("FORCENAMESPACED=%q in the environment: use true or false", value)
	}
	if forced || !o.Given("forceNamespaced") {
		o.ForceNamespaced = forced
	}
	return nil
}

// Validate returns all errors joined.
func (o *Options) Validate() error {
	format := logging.CheckFormat(o.LogFormat)
	if format != nil {
		format = fmt.Errorf("--logging-format: %w", format)
	}
	return errors.Join(format, port("http-probe-port", o.ProbePort), port("prometheus-port", o.MetricsPort),
		listenAddress("http-probe-address", o.ProbeAddress), listenAddress("prometheus-address", o.MetricsAddress),
		userAgent(o.CustomUserAgent))
}

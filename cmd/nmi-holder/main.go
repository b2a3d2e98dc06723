// Command nmi-holder does for nmi what needs privileges on a node: it keeps the redirect in place,
// and captures requests inside pods. nmi, which serves pods, then needs no privilege. It has no
// Kubernetes client, and reads nothing that pods send. docs/interception.md describes it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/build"
	"github.com/podid-io/podid/internal/hook/probe"
	"github.com/podid-io/podid/internal/logging"
	"github.com/podid-io/podid/internal/privileged"
)

func main() {
	if code, is := probe.Main(); is {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1) // it has little to do, and must take little from the node
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	code := holder(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// gcPercent makes the garbage collector start at 1 MB instead of 4 MB, and let garbage add a
// quarter to what is in use. It costs CPU time only while pods start and end.
const gcPercent = 25

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// options are the flags.
type options struct {
	privileged privileged.Options
	folder     string
	user       int
	format     string
	verbosity  int
	version    bool
	ping       bool // ask the holder that runs
}

const intro = "nmi-holder does for nmi what needs privileges on a node: nmi --holder=DIR needs none.\n\n" +
	"Usage: nmi-holder [flags]\n\nGive it the same flags as nmi where both have them.\n\nFlags:\n"

// parse reads the command line. Its error is flag.ErrHelp if the usage was requested and written.
func (o *options) parse(args []string, w io.Writer) error {
	flags := flag.NewFlagSet("nmi-holder", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // errors are printed by the caller
	o.privileged.BindFlags(flags)
	flags.StringVar(&o.folder, "holder", privileged.DefaultFolder, "`folder` in which nmi reaches this holder; it is made")
	flags.IntVar(&o.user, "agent-user", 65532, "`number` of the user as whom nmi runs; root may ask the holder, too")
	flags.StringVar(&o.format, "logging-format", logging.FormatText, "log format: text or json")
	flags.IntVar(&o.verbosity, "v", 0, "log verbosity")
	flags.BoolVar(&o.ping, "ping", false, "ask the holder in the folder whether it answers, and exit with 0 or 1; for liveness probes")
	flags.BoolVar(&o.version, "version", false, "print the version and exit")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(w, intro)
		flags.SetOutput(w)
		flags.PrintDefaults()
		return err
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q: every option is a flag such as --holder=DIR", flags.Arg(0))
	}
	if err != nil || o.version {
		return err
	}
	o.privileged.Complete()
	return errors.Join(o.privileged.Validate(1), logging.CheckFormat(o.format), o.check())
}

func (o *options) check() error {
	var user, folder error
	if o.user < 0 || o.user >= math.MaxUint32 {
		user = fmt.Errorf("--agent-user=%d cannot be a user: use a number from 0 to %d", o.user, uint32(math.MaxUint32-1))
	}
	if !filepath.IsAbs(o.folder) {
		folder = fmt.Errorf("--holder=%q: use an absolute path, such as %s", o.folder, privileged.DefaultFolder)
	}
	return errors.Join(user, folder)
}

// holder runs the program and returns its exit code.
func holder(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := &options{}
	err := o.parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "nmi-holder: %v\nRun 'nmi-holder --help' for the flags.\n", err)
		return exitUsage
	case o.version:
		_, _ = fmt.Fprintln(stdout, "nmi-holder "+build.Describe().String())
		return exitDone
	}
	if o.ping {
		return ping(ctx, o, stderr)
	}
	log := logging.New(stderr, o.format, o.verbosity)
	log.Info("starting", "version", build.Version(), "capture", o.privileged.Way, "holder", o.folder)
	if err := serve(ctx, o, log); err != nil {
		log.Error(err, "nmi-holder ends")
		return exitFailed
	}
	log.Info("stopped")
	return exitDone
}

// pingTime bounds the wait for a holder's answer.
const pingTime = 5 * time.Second

func ping(ctx context.Context, o *options, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	if err := privileged.Ping(ctx, o.privileged, o.folder); err != nil {
		_, _ = fmt.Fprintf(stderr, "nmi-holder: %v\n", err)
		return exitFailed
	}
	return exitDone
}

func serve(ctx context.Context, o *options, log logr.Logger) error {
	server, err := privileged.NewServer(ctx, o.privileged, o.folder, uint32(o.user), log) //nolint:gosec // checked
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

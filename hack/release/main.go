// Command release builds everything that a release of podid consists of, and pushes it to a
// registry.
//
//	release build [-out dist] [-tagged | -version v1.2.3] [-only linux/amd64]
//	release push [-from dist] REGISTRY
//
// What it builds depends on the commit alone: two runs give the same bytes. docs/release.md lists
// it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	usage := errors.New("usage: release build [flags], or release push [flags] REGISTRY")
	if len(args) == 0 {
		return usage
	}
	switch args[0] {
	case "build":
		return runBuild(ctx, args[1:], out)
	case "push":
		return runPush(ctx, args[1:], out)
	}
	return usage
}

func runBuild(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("release build", flag.ContinueOnError)
	b := builder{goBuild: goBuild, getenv: os.Getenv, log: out}
	flags.StringVar(&b.source, "source", ".", "the checkout")
	flags.StringVar(&b.out, "out", "dist", "the folder to write, which is replaced")
	flags.StringVar(&b.helm, "helm", "helm", "the helm program")
	tagged := flags.Bool("tagged", false, "refuse to build a commit without a tag")
	wanted := flags.String("version", "", "the commit's tag to build, which is needed if the commit has several")
	flags.Func("only", "build for this platform alone, such as linux/amd64, to try something quickly", func(text string) (err error) {
		b.only, err = parsePlatform(text)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	r, err := describe(ctx, b.source, *wanted)
	if err != nil {
		return err
	}
	if *tagged && !r.Tagged {
		return fmt.Errorf("commit %s has no tag such as v1.2.3: tag it, or build without -tagged to get %s", r.Commit, r.Version)
	}
	b.release = r
	return b.all(ctx)
}

func runPush(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("release push", flag.ContinueOnError)
	from := flags.String("from", "dist", "the folder that `release build` wrote")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || flags.Arg(0) == "" {
		return errors.New("name one registry, such as ghcr.io/you/podid: release push REGISTRY")
	}
	return push(ctx, *from, flags.Arg(0), out)
}

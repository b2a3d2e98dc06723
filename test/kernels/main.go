// Command kernels runs the kernel tests of the agent and of the holder in virtual machines, each
// with another kernel. It needs no KVM. See make test-kernels.
//
// The kernels are packages of Debian and Ubuntu, kept in the cache. Remove a kernel's folder there
// to get its newest version.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

// kernel is one kernel to test on.
type kernel struct {
	name string
	archive
	suite, meta string
	// inPods means that requests can be captured inside pods.
	inPods bool
}

func kernels() []kernel {
	return []kernel{
		{"5.10", debian, "bullseye", "linux-image-cloud-amd64", false},
		{"5.15", ubuntu, "jammy-updates", "linux-image-azure-lts-22.04", true},
		{"6.1", debian, "bookworm", "linux-image-cloud-amd64", true},
		{"6.8", ubuntu, "noble-updates", "linux-image-azure-lts-24.04", true},
		{"6.12", debian, "trixie", "linux-image-cloud-amd64", true},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("kernels", flag.ContinueOnError)
	only := flags.String("run", "", "run only tests whose name matches this regular `expression`")
	limit := flags.Duration("timeout", 25*time.Minute, "stop a virtual machine after this `time`")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	h, err := newHost(*limit)
	if err != nil {
		return err
	}
	defer h.close()
	fmt.Println("..    building the tests")
	if h.programs, err = build(ctx, h.work, *only); err != nil {
		return err
	}
	h.partial = *only != ""
	var results []result
	for _, k := range chosen { // one at a time
		results = append(results, h.test(ctx, k))
	}
	fmt.Print("\n", table(results))
	return verdict(results)
}

// verdict returns an error if a kernel is to blame for something, or there was none.
func verdict(results []result) error {
	if !slices.ContainsFunc(results, func(r result) bool { return r.missing == nil }) {
		return errors.New("none of the kernels could be had")
	}
	if slices.ContainsFunc(results, func(r result) bool { return r.bad() }) {
		return errors.New("not all kernels passed")
	}
	return nil
}

// choose returns the kernels with these names, or all.
func choose(names []string) ([]kernel, error) {
	all := kernels()
	if len(names) == 0 {
		return all, nil
	}
	var chosen []kernel
	for _, name := range names {
		at := slices.IndexFunc(all, func(k kernel) bool { return k.name == name })
		if at < 0 {
			var known []string
			for _, k := range all {
				known = append(known, k.name)
			}
			return nil, fmt.Errorf("no kernel %q: choose from %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[at])
	}
	return chosen, nil
}

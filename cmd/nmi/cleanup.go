// nmi --cleanup: taking the redirect off the node, for good.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/redirect"
)

// cleanupOptions: leaving a node.
type cleanupOptions struct {
	on    bool
	force bool
	wait  time.Duration
}

func (o *cleanupOptions) bindFlags(flags *flag.FlagSet) {
	flags.BoolVar(&o.on, "cleanup", false, "take the redirect off this node and exit: pods reach the real metadata service afterwards; refused while an agent answers")
	flags.BoolVar(&o.force, "force", false, "with --cleanup: although an agent answers")
	flags.DurationVar(&o.wait, "cleanup-wait", 0, "with --cleanup: how long to wait for an agent that is about to end")
}

func (o *cleanupOptions) validate() error {
	switch {
	case !o.on && (o.force || o.wait != 0):
		return errors.New("--force and --cleanup-wait go with --cleanup")
	case o.wait < 0:
		return fmt.Errorf("--cleanup-wait=%v: must not be negative", o.wait)
	}
	return nil
}

// cleanUp is what nmi --cleanup does instead of serving.
func cleanUp(ctx context.Context, o *options, log logr.Logger) error {
	config, err := o.redirect.config(o.ports.nmi)
	if err != nil {
		return err
	}
	log = log.WithValues("table", config.Table, "address", config.AgentIP.String())
	found, err := redirect.Clean(ctx, config, o.cleanup.wait, o.cleanup.force)
	var busy *redirect.BusyError
	switch {
	case errors.As(err, &busy):
		return fmt.Errorf("nothing was removed: %w; --force removes it all the same", err)
	case err != nil:
		return err
	case found:
		log.Info("the redirect is gone: pods of this node reach the real metadata service, and the node's identities")
	default:
		log.Info("there is no redirect on this node")
	}
	return nil
}

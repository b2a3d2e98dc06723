// nmi --boot-guard keeps pods from the metadata service between a boot and the agent's start.

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/agent/redirect"
	"github.com/podid-io/podid/internal/privileged"
)

// guardBoot adds the rules of the redirect, unless an agent serves, and with another --capture than
// wire the programs that refuse pods inside them.
func guardBoot(ctx context.Context, o *options, log logr.Logger) error {
	config, err := o.privileged.Redirect(o.ports.nmi)
	if err != nil {
		return err
	}
	log = log.WithValues("table", config.Table, "address", config.AgentIP.String())
	guarded, err := redirect.Guard(ctx, config)
	switch {
	case err != nil:
		err = fmt.Errorf("add the rules before the agent runs: %w", err)
	case guarded:
		log.Info("put the rules in place: pods are refused until an agent serves")
	default:
		log.Info("left the rules to the agent that serves")
		return nil
	}
	if o.privileged.Way == privileged.CaptureWire {
		return err
	}
	return guardInPods(ctx, o.privileged, err, log)
}

// guardInPods puts the programs in place. rules is why the rules are not: where a security module
// forbids them, the programs refuse pods alone. With prefer, so do the rules where there can be no
// programs.
func guardInPods(ctx context.Context, o privileged.Options, rules error, log logr.Logger) error {
	guarded, err := privileged.GuardBoot(ctx, o)
	switch {
	case err != nil && guarded && o.Way == privileged.CapturePrefer && rules == nil:
		log.Error(err, "pods are refused by the rules and inside them, but not every interface has a guard: "+
			"what pods send by raw sockets on a network that passes by the rules reaches the metadata service")
		return nil
	case err != nil && o.Way == privileged.CapturePrefer && rules == nil:
		log.Error(err, "pods are refused by the rules alone: on a node whose network passes by them, pods reach the metadata service")
		return nil
	case err != nil:
		return errors.Join(err, rules)
	case guarded:
		log.Info("put the programs in place: pods are refused inside them until an agent serves")
	default:
		log.Info("left the programs that an agent has put in place")
	}
	if rules != nil {
		log.Error(rules, "pods are refused by the programs alone")
	}
	return nil
}

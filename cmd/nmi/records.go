// What is written down about decisions: the audit log and events.

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"sync"

	"k8s.io/client-go/rest"

	"github.com/podid-io/podid/internal/agent/events"
	"github.com/podid-io/podid/internal/agent/server"
)

// recordOptions: what is written down, and where the audit log goes.
type recordOptions struct {
	auditLog string
	events   bool
	out      io.Writer
}

func (o *recordOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.auditLog, "audit-log", string(server.AuditChanges), "decisions about tokens, as lines of JSON on standard output: off, changes (the first of equal ones) or all")
	flags.BoolVar(&o.events, "refusal-events", true, "tell of refusals in events of the pods that were refused")
}

func (o *recordOptions) validate() error {
	_, err := server.ParseAuditMode(o.auditLog)
	if err != nil {
		return fmt.Errorf("--audit-log: %w", err)
	}
	return nil
}

// keepRecords makes what takes decisions.
func (a *agent) keepRecords(config *rest.Config) error {
	mode, err := server.ParseAuditMode(a.o.record.auditLog)
	if err != nil {
		return err
	}
	if mode == server.AuditChanges && a.o.Verbosity >= 2 {
		mode = server.AuditAll
	}
	a.audit = server.NewAudit(mode, a.metrics.AuditDropped)
	if !a.o.record.events {
		return nil
	}
	api, err := events.NewClient(config)
	if err != nil {
		return err
	}
	a.events = events.New(events.Config{
		API: api, Node: a.o.node.name, Program: "nmi",
		Dropped: a.metrics.EventDropped, Log: a.log.WithName("events"),
	})
	return nil
}

// refusals is who is told of them; nil when nobody is.
func (a *agent) refusals() server.Events {
	if a.events == nil {
		return nil
	}
	return a.events
}

// writeRecords writes until ctx ends.
func (a *agent) writeRecords(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() { a.audit.Run(ctx, a.o.record.out) })
	if a.events != nil {
		group.Go(func() { a.events.Run(ctx) })
	}
	group.Wait()
}

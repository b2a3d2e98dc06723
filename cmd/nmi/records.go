// What is written down about decisions: the audit log and events.

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/podid-io/podid/internal/agent/audit"
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
	flags.StringVar(&o.auditLog, "audit-log", string(audit.Changes), "decisions about tokens, as lines of JSON on standard output: off, changes (the first of equal ones) or all")
	flags.BoolVar(&o.events, "refusal-events", true, "tell of refusals in events of the pods that were refused")
}

func (o *recordOptions) validate() error {
	_, err := audit.ParseMode(o.auditLog)
	if err != nil {
		return fmt.Errorf("--audit-log: %w", err)
	}
	return nil
}

// keepRecords makes what takes decisions.
func (a *agent) keepRecords(config *rest.Config) error {
	mode, err := audit.ParseMode(a.o.record.auditLog)
	if err != nil {
		return err
	}
	if mode == audit.Changes && a.o.Verbosity >= 2 {
		mode = audit.All
	}
	a.audit = audit.New(mode, a.metrics.AuditDropped)
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

// lastWords is what is left for records when the agent ends: nobody may be
// reading its output any more, and then a write never returns.
const lastWords = 2 * time.Second

// writeRecords writes until ctx ends, and a moment longer.
func (a *agent) writeRecords(ctx context.Context) {
	writers := []func(){func() { a.audit.Run(ctx, a.o.record.out) }}
	if a.events != nil {
		writers = append(writers, func() { a.events.Run(ctx) })
	}
	a.endRecords(ctx, writers...)
}

// endRecords runs writers, which end with ctx, and leaves them behind when they
// do not.
func (a *agent) endRecords(ctx context.Context, writers ...func()) {
	var group sync.WaitGroup
	for _, w := range writers {
		group.Go(w)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		group.Wait()
	}()
	<-ctx.Done()
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
		a.log.Info("some records could not be written: nobody reads standard output, or the API server is away")
	}
}

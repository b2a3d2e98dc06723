// Records of decisions: the audit log and Events.

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

// recordOptions select the records. The audit log is written to out.
type recordOptions struct {
	auditLog string
	events   bool
	out      io.Writer
}

func (o *recordOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.auditLog, "audit-log", string(audit.Changes), "decisions about tokens to log as lines of JSON on standard output: off, changes (the first of equal ones) or all")
	flags.BoolVar(&o.events, "refusal-events", true, "report refusals as Events of the pods")
}

func (o *recordOptions) validate() error {
	_, err := audit.ParseMode(o.auditLog)
	if err != nil {
		return fmt.Errorf("--audit-log: %w", err)
	}
	return nil
}

// openRecords creates the audit log and the recorder of Events.
func (a *agent) openRecords(config *rest.Config) error {
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

// refusalEvents returns the recorder of Events, a nil interface if they are disabled.
func (a *agent) refusalEvents() server.Events {
	if a.events == nil {
		return nil
	}
	return a.events
}

// flushTime is how long records may be written after the agent has stopped. A write to a full pipe
// never returns.
const flushTime = 2 * time.Second

// writeRecords writes records until ctx ends, and for flushTime after that.
func (a *agent) writeRecords(ctx context.Context) {
	writers := []func(){func() { a.audit.Run(ctx, a.o.record.out) }}
	if a.events != nil {
		writers = append(writers, func() { a.events.Run(ctx) })
	}
	a.flushRecords(ctx, writers...)
}

// flushRecords runs writers, which return after ctx has ended. It waits for them no longer than
// flushTime.
func (a *agent) flushRecords(ctx context.Context, writers ...func()) {
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
	timer := time.NewTimer(flushTime)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
		a.log.Info("lost records: standard output is blocked, or the API server is unreachable")
	}
}

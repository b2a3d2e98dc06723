package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
)

// TestFullPipe: standard output that is not read does not keep the agent from exiting.
func TestFullPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		(&agent{log: logr.Discard()}).flushRecords(ctx, func() { <-read })
		if took := time.Since(began); took != flushTime {
			t.Errorf("ended after %v, want %v", took, flushTime)
		}
		close(read)
	})
}

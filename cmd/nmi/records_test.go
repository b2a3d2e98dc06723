package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
)

// TestNobodyReads: a pipe that is full does not keep the agent from ending.
func TestNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		(&agent{log: logr.Discard()}).endRecords(ctx, func() { <-read })
		if took := time.Since(began); took != lastWords {
			t.Errorf("ended after %v, want %v", took, lastWords)
		}
		close(read)
	})
}

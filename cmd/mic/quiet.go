// What the libraries log and nobody needs.

package main

import "github.com/go-logr/logr"

// quiet is a log without the error with which controller-runtime greets the end of every
// term: that its elector has stopped. Why a term ended, if not because MIC was told to, is
// logged by keepOn.
type quiet struct{ logr.LogSink }

// Error is logr.LogSink.
func (q quiet) Error(err error, msg string, keysAndValues ...any) {
	if err != nil && err.Error() == "leader election lost" && msg == "error received after stop sequence was engaged" {
		return
	}
	q.LogSink.Error(err, msg, keysAndValues...)
}

// WithValues is logr.LogSink.
func (q quiet) WithValues(keysAndValues ...any) logr.LogSink {
	return quiet{q.LogSink.WithValues(keysAndValues...)}
}

// WithName is logr.LogSink.
func (q quiet) WithName(name string) logr.LogSink { return quiet{q.LogSink.WithName(name)} }

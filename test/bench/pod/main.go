// Command pod runs in the benchmark's pods. It uses raw sockets instead of an Azure SDK, so that
// the times are the product's and not the client's.
//
//	pod first                 one token request; the times go to the termination message
//	pod load TARGET...        as many requests as 32 connections carry, to one target after another
//	pod serve ADDRESS BYTES   a bare net/http server with a response of that length, as the baseline
//
// It only works in a pod of the benchmark: its requests are meant for an agent, never for a real
// metadata service.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	began := time.Now()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, began, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pod:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, began time.Time, args []string, out io.Writer) error {
	if os.Getpid() != 1 || os.Getenv("PODID_BENCH") == "" {
		return errors.New("this program runs in pods of the benchmark only: see docs/benchmarks.md")
	}
	if len(args) == 0 {
		return errors.New("name what to do: first, load or serve")
	}
	switch args[0] {
	case "first":
		return first(ctx, began)
	case "load":
		return loads(ctx, args[1:], out)
	case "serve":
		return serve(ctx, args[1:])
	default:
		return fmt.Errorf("%q is none of first, load and serve", args[0])
	}
}

func writeJSON(out io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	_, err = out.Write(append(b, '\n'))
	return err
}

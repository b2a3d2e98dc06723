// The baseline: a net/http server without any decisions.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

func serve(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("serve needs an address and the length of the answer")
	}
	length, err := strconv.Atoi(args[1])
	if err != nil || length < 1 || length > 1<<20 {
		return fmt.Errorf("length %q: use a number of bytes", args[1])
	}
	body := bytes.Repeat([]byte("x"), length)
	contentType, contentLength := []string{"application/json; charset=utf-8"}, []string{args[1]}
	server := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h["Content-Type"], h["Content-Length"] = contentType, contentLength
			_, _ = w.Write(body) // an error means that the client has disconnected
		}),
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", args[0])
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

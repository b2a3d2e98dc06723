// One token request, as early as a pod can make it.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/podid-io/podid/test/bench/load"
)

const (
	metadataService = "169.254.169.254:80"
	// terminationLog is the file from which Kubernetes reads a container's termination message.
	terminationLog = "/dev/termination-log"
	// answerLimit is longer than the agent ever holds a request.
	answerLimit = 2 * time.Minute
)

// outcome is the termination message of a pod that requested one token.
type outcome struct {
	// Began is the start of main, Connected when the connection was established, Answered when the
	// response was complete.
	Began     time.Time `json:"began"`
	Connected time.Time `json:"connected"`
	Answered  time.Time `json:"answered"`
	// Status is the status of the response, Bytes the length of its body, Text the error, if any.
	Status int    `json:"status"`
	Bytes  int    `json:"bytes"`
	Text   string `json:"text,omitempty"`
}

func first(ctx context.Context, began time.Time) error {
	o := outcome{Began: began}
	if err := o.ask(ctx); err != nil {
		o.Text = err.Error()
	}
	file, err := os.OpenFile(terminationLog, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("say what happened: %w", err)
	}
	return errors.Join(writeJSON(file, o), file.Close())
}

func (o *outcome) ask(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: answerLimit}).DialContext(ctx, "tcp", metadataService)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	o.Connected = time.Now()
	if err := conn.SetDeadline(o.Connected.Add(answerLimit)); err != nil {
		return err
	}
	if _, err := conn.Write(request("169.254.169.254", os.Getenv("BENCH_RESOURCE"), "Connection: close\r\n")); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	o.Answered = time.Now()
	head, body, found := bytes.Cut(answer, []byte("\r\n\r\n"))
	if !found {
		return fmt.Errorf("%d bytes are no HTTP answer", len(answer))
	}
	if o.Status, err = load.Status(head); err != nil {
		return err
	}
	o.Bytes = len(body)
	if o.Status != 200 || !bytes.Contains(body, []byte(`"access_token"`)) {
		return fmt.Errorf("no token: %.300s", body)
	}
	return nil
}

// request returns the token request of an Azure SDK.
func request(host, resource, headers string) []byte {
	return []byte("GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + resource + " HTTP/1.1\r\n" +
		"Host: " + host + "\r\nUser-Agent: podid-bench\r\nAccept: application/json\r\nMetadata: true\r\n" + headers + "\r\n")
}

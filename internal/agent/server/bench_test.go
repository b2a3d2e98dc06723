package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
)

// Compare the two benchmarks of one run: the agent must serve at least half as many requests a
// second as a server that does nothing. Client and server share the machine.

const benchConnections = 32

func BenchmarkTokenFromCache(b *testing.B) {
	w := newWorld(b, nil)
	w.assign("web", "10.9.0.2", "one")
	load(b, w.listen("10.9.0.2"), tokenQuery("https://management.azure.com/"))
}

func BenchmarkBareServer(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 1800)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Content-Length", "1800")
		_, _ = w.Write(body)
	})}
	go func() { _ = server.Serve(l) }()
	b.Cleanup(func() { _ = server.Close() })
	load(b, l.Addr().String(), tokenQuery("https://management.azure.com/"))
}

// load sends b.N requests on 32 connections. Its client costs as little as possible.
func load(b *testing.B, address, query string) {
	request := []byte("GET " + query + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nUser-Agent: bench\r\n\r\n")
	var group sync.WaitGroup
	errs := make(chan error, benchConnections)
	began := time.Now()
	b.ResetTimer()
	for i := range benchConnections {
		n := b.N / benchConnections
		if i < b.N%benchConnections {
			n++
		}
		group.Go(func() { errs <- send(address, request, n) })
	}
	group.Wait()
	b.StopTimer()
	close(errs)
	for err := range errs {
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "req/s")
	b.ReportMetric(0, "ns/op")
}

func send(address string, request []byte, n int) error {
	if n == 0 {
		return nil
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	r := bufio.NewReaderSize(c, 16<<10)
	for range n {
		if _, err := c.Write(request); err != nil {
			return err
		}
		if err := readAnswer(r); err != nil {
			return err
		}
	}
	return nil
}

func readAnswer(r *bufio.Reader) error {
	length, first := -1, true
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.Contains(line, []byte(" 200 ")) {
			return fmt.Errorf("answered %q", line)
		}
		first = false
		if rest, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length = 0
			for _, c := range bytes.TrimSpace(rest) {
				length = length*10 + int(c-'0')
			}
		}
		if len(line) <= 2 {
			break
		}
	}
	_, err := io.CopyN(io.Discard, r, int64(length))
	return err
}

func quiet() logr.Logger { return logr.Discard() }

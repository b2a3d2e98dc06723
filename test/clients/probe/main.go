// The probe is a program in a pod that sends bytes and reports the answers. Its argument is a JSON
// list of requests. It prints a JSON list of answers. Without an argument it waits to be called.
//
// Tokens are never printed, only their claims.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// request is a connection and what to write to it.
type request struct {
	To   string `json:"to"`
	Send string `json:"send"`
	// TimeoutMS bounds it, in milliseconds.
	TimeoutMS int `json:"timeoutMS"`
	// LastsMS, if set, is for how long it is sent again and again, in milliseconds. The answer counts
	// the outcomes.
	LastsMS int `json:"lastsMS"`
}

// answer is the result. Without an HTTP answer there is no status, and Error has the reason.
type answer struct {
	Status int               `json:"status,omitempty"`
	Header map[string]string `json:"header,omitempty"`
	Body   string            `json:"body,omitempty"`
	Claims map[string]any    `json:"claims,omitempty"`
	// Error is refused, unreachable, timeout, closed, or the text of the error.
	Error  string `json:"error,omitempty"`
	TookMS int64  `json:"tookMS"`
	// Outcomes are counts by status, or error, and the token's appid.
	Outcomes map[string]int `json:"outcomes,omitempty"`
}

// pause is the time between requests that are sent again.
const pause = 5 * time.Millisecond

func main() {
	if len(os.Args) < 2 {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
		<-stop
		return
	}
	var requests []request
	if err := json.Unmarshal([]byte(os.Args[1]), &requests); err != nil {
		fmt.Fprintln(os.Stderr, "probe: read the requests:", err)
		os.Exit(2)
	}
	answers := make([]answer, 0, len(requests))
	for _, r := range requests {
		began := time.Now()
		a := repeat(r)
		a.TookMS = time.Since(began).Milliseconds()
		answers = append(answers, a)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// repeat sends a request once, or for as long as it says.
func repeat(r request) answer {
	if r.LastsMS <= 0 {
		return ask(r)
	}
	end := time.After(time.Duration(r.LastsMS) * time.Millisecond)
	next := time.NewTicker(pause)
	defer next.Stop()
	outcomes := map[string]int{}
	for {
		select {
		case <-end:
			return answer{Outcomes: outcomes}
		case <-next.C:
			a := ask(r)
			outcome := a.Error
			if a.Status != 0 {
				outcome = strings.TrimSpace(fmt.Sprint(a.Status, " ", text(a.Claims["appid"])))
			}
			outcomes[outcome]++
		}
	}
}

// text returns a claim, or nothing if there is none.
func text(claim any) string {
	s, _ := claim.(string)
	return s
}

func ask(r request) answer {
	limit := time.Duration(r.TimeoutMS) * time.Millisecond
	if limit <= 0 {
		limit = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.To)
	if err != nil {
		return answer{Error: word(err)}
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return answer{Error: err.Error()}
	}
	if _, err := io.WriteString(conn, r.Send); err != nil {
		return answer{Error: word(err)}
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return answer{Error: word(err)}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil && len(body) == 0 {
		return answer{Status: response.StatusCode, Error: word(err)}
	}
	a := answer{Status: response.StatusCode, Header: map[string]string{}}
	for name, values := range response.Header {
		a.Header[name] = strings.Join(values, ", ")
	}
	a.Body, a.Claims = withoutToken(body)
	return a
}

// withoutToken replaces a token by its claims.
func withoutToken(body []byte) (string, map[string]any) {
	var fields map[string]any
	if json.Unmarshal(body, &fields) != nil {
		return string(body), nil
	}
	token, ok := fields["access_token"].(string)
	if !ok {
		return string(body), nil
	}
	claims := map[string]any{}
	if parts := strings.Split(token, "."); len(parts) == 3 {
		if raw, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(raw, &claims) // without claims if it fails
		}
	}
	return string(bytes.ReplaceAll(body, []byte(token), []byte("(token)"))), claims
}

func word(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return "closed"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return err.Error()
}

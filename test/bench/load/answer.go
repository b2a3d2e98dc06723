// A minimal HTTP parser for responses with a Content-Length.

package load

import (
	"bytes"
	"fmt"
	"strconv"
)

// Status parses the status code in a response's head.
func Status(head []byte) (int, error) {
	const before = len("HTTP/1.1 ")
	if len(head) < before+3 || !bytes.HasPrefix(head, []byte("HTTP/1.1 ")) {
		return 0, fmt.Errorf("no HTTP/1.1 answer: %.60q", head)
	}
	code, err := strconv.Atoi(string(head[before : before+3]))
	if err != nil {
		return 0, fmt.Errorf("no status code: %.60q", head)
	}
	return code, nil
}

// Complete returns the length of the response at the beginning of b, or 0 while it is incomplete.
func Complete(b []byte) (length, code int, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return 0, 0, nil
	}
	if code, err = Status(b); err != nil {
		return 0, 0, err
	}
	body, err := contentLength(b[:end+2])
	if err != nil {
		return 0, 0, err
	}
	if length = end + 4 + body; length > len(b) {
		return 0, code, nil
	}
	return length, code, nil
}

// contentLength parses the header in the spelling of Go's servers.
func contentLength(head []byte) (int, error) {
	name := []byte("\r\nContent-Length: ")
	_, rest, found := bytes.Cut(head, name)
	if !found {
		return 0, fmt.Errorf("no Content-Length: %.200q", head)
	}
	text, _, _ := bytes.Cut(rest, []byte("\r"))
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' || n > 1<<20 {
			return 0, fmt.Errorf("content length %.20q", text)
		}
		n = 10*n + int(c-'0')
	}
	return n, nil
}

// body returns the body of a complete response.
func body(answer []byte) string {
	_, b, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
	return string(b)
}

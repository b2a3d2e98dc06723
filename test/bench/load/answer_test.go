package load

import (
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nDate: now\r\n\r\n"
	tests := []struct {
		name, in     string
		length, code int
		err          string
	}{
		{"whole", ok + "12345", len(ok) + 5, 200, ""},
		{"head only", ok, 0, 200, ""},
		{"part of the head", ok[:30], 0, 0, ""},
		{"part of the body", ok + "1234", 0, 200, ""},
		{"empty body", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 45, 404, ""},
		{"no length", "HTTP/1.1 200 OK\r\nDate: now\r\n\r\n", 0, 0, "no Content-Length"},
		{"bad length", "HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\n", 0, 0, "content length"},
		{"not http", "garbage garbage\r\n\r\n", 0, 0, "no HTTP/1.1 answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			length, code, err := Complete([]byte(tt.in))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || length != tt.length || code != tt.code {
				t.Errorf("got %d %d %v, want %d %d", length, code, err, tt.length, tt.code)
			}
		})
	}
}

package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// SendValue sends a packet that is a value in JSON.
func (c *Conn) SendValue(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write packet: %w", err)
	}
	if err := c.unix.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("send packet: %w", err)
	}
	if _, err := c.unix.Write(line); err != nil {
		return fmt.Errorf("send packet: %w", err)
	}
	return nil
}

// ReceiveValue waits for a packet that SendValue sent, no longer than the timeout.
func (c *Conn) ReceiveValue(v any, timeout time.Duration) error {
	if err := c.unix.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("receive packet: %w", err)
	}
	line := make([]byte, maxMessage)
	n, err := c.unix.Read(line)
	if err := errors.Join(err, c.unix.SetReadDeadline(time.Time{})); err != nil { // WaitEnd waits for as long as it takes
		return fmt.Errorf("receive packet: %w", err)
	}
	if err := json.Unmarshal(line[:n], v); err != nil {
		return fmt.Errorf("read packet: %w", err)
	}
	return nil
}

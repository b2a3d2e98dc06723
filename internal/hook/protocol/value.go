package protocol

import (
	"encoding/json"
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

// ReceiveValue waits for a packet that SendValue sent, until the timeout if there is one.
func (c *Conn) ReceiveValue(v any, timeout time.Duration) error {
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	if err := c.unix.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("receive packet: %w", err)
	}
	line := make([]byte, maxMessage)
	n, err := c.unix.Read(line)
	if err != nil {
		return fmt.Errorf("receive packet: %w", err)
	}
	if err := json.Unmarshal(line[:n], v); err != nil {
		return fmt.Errorf("read packet: %w", err)
	}
	return nil
}

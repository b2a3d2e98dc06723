package compute_test

import (
	"testing"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/compute/computetest"
)

// TestConformance runs the test of the fake on the client, with a small strict ARM and with the
// emulated Azure.
func TestConformance(t *testing.T) {
	t.Run("arm", func(t *testing.T) {
		computetest.Conform(t, func(t *testing.T) (computetest.Azure, computetest.Client) {
			client, arm := compute.NewClientAndARM(t)
			return arm, client
		})
	})
	t.Run("emulator", func(t *testing.T) {
		computetest.Conform(t, func(t *testing.T) (computetest.Azure, computetest.Client) {
			client, azure := compute.NewClientAndEmulator(t)
			return azure, client
		})
	})
}

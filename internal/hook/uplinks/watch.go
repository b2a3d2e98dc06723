// Package uplinks finds the network interfaces by which packets can leave the node, and watches
// them: each needs a guard (internal/hook/program).
package uplinks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long changes are collected: one interface that appears causes several.
	settle = 20 * time.Millisecond
	// checkEvery is when the uplinks are checked without an announced change, and retryEvery after an
	// error.
	checkEvery = time.Minute
	retryEvery = time.Second
)

// Watch calls guard with all uplinks of this network namespace, at the start, after every change of
// interfaces and routes, and once a minute, until ctx ends. After an error of guard it calls it
// again a second later. All calls come from one goroutine.
func Watch(ctx context.Context, targets []netip.Addr, guard func([]Uplink) error, log logr.Logger) {
	log = log.WithName("uplinks")
	for logged := ""; ctx.Err() == nil; {
		err := watchOnce(ctx, targets, guard)
		if ctx.Err() != nil {
			return
		}
		if text := fmt.Sprint(err); text != logged {
			logged = text
			log.Error(err, "cannot guard all uplinks, retrying: packets of pods that pass by the programs could leave the node")
		}
		pause(ctx, retryEvery)
	}
}

// watchOnce is Watch until an error.
func watchOnce(ctx context.Context, targets []netip.Addr, guard func([]Uplink) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the subscription
	changed, err := subscribe(ctx)
	if err != nil {
		return err
	}
	for {
		all, err := List(ctx, targets)
		if err != nil {
			return err
		}
		if err := guard(all); err != nil {
			return err
		}
		check := time.NewTimer(checkEvery)
		select {
		case <-ctx.Done():
		case _, ok := <-changed:
			if !ok {
				err = errors.New("the kernel's announcements of interfaces and routes ended")
			}
			pause(ctx, settle)
		case <-check.C:
		}
		check.Stop()
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
}

// List returns the uplinks of this network namespace: the interfaces by which packets to the
// targets can leave it. If an interface that came or went interrupts it, it starts again until ctx
// ends: on nodes whose pods change all the time, this is no failure.
func List(ctx context.Context, targets []netip.Addr) ([]Uplink, error) {
	return uninterrupted(ctx, func() ([]Uplink, error) { return list(targets) })
}

// uninterrupted repeats a list that the kernel says was interrupted.
func uninterrupted(ctx context.Context, list func() ([]Uplink, error)) ([]Uplink, error) {
	for {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || ctx.Err() != nil {
			return all, err
		}
		pause(ctx, settle)
	}
}

// subscribe returns a channel that gets a value after changes of interfaces or IPv4 routes. It is
// closed after an error, and when ctx ends.
func subscribe(ctx context.Context) (<-chan struct{}, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch network interfaces: %w", err)
	}
	changed := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, socket.Close)
	go func() {
		defer close(changed)
		defer socket.Close()
		defer stop()
		for {
			// ENOBUFS means that announcements were lost, which is a change as well.
			if _, _, err := socket.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case changed <- struct{}{}:
			default: // one is pending
			}
		}
	}()
	return changed, nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Package emulator is an Azure on one machine: Resource Manager, Entra ID and the instance metadata
// service over their real wire protocols. They share one world (package world), and an API controls
// it (package control).
package emulator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/podid-io/podid/internal/emulator/arm"
	"github.com/podid-io/podid/internal/emulator/control"
	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/front"
	"github.com/podid-io/podid/internal/emulator/imds"
	"github.com/podid-io/podid/internal/emulator/world"
)

// Config holds an emulator's addresses and its initial state.
type Config struct {
	// Dir holds the keys and the files for clients (see files.go). It is created if necessary.
	Dir string
	// World is the initial world. nil means Dir/world.yaml if it exists, otherwise the default world.
	World *world.Document
	// Addresses to listen on, host:port; port 0 means any free one.
	ARMAddress, EntraAddress, IMDSAddress, ControlAddress string
	// ARMURL and EntraURL replace the listen addresses that clients are given; https://host[:port].
	ARMURL, EntraURL string
	// Hosts are the names and IP addresses that the server certificate is for, besides localhost, the
	// listen addresses and those of ARMURL and EntraURL. Clients are given the first one if there is
	// no URL.
	Hosts []string
	// AllowNonLoopback allows listening on other than loopback addresses in the machine's own
	// network namespace.
	AllowNonLoopback bool
	// Adjust, if not nil, changes the world before the start.
	Adjust func(*world.Document)
	Logger *slog.Logger
	// Now is the clock; nil means the real one.
	Now func() time.Time
}

// Endpoints holds the addresses and files of a running emulator.
type Endpoints struct {
	ARM     string `json:"arm"`
	Entra   string `json:"entra"`
	IMDS    string `json:"imds"`
	Control string `json:"control"`
	Dir     string `json:"dir"`
	CA      string `json:"ca"`        // the certificate to trust
	Azure   string `json:"azureJSON"` // cloud config of the world's first application
	Cloud   string `json:"cloudJSON"` // for AZURE_ENVIRONMENT_FILEPATH
	World   string `json:"world"`
}

// Emulator is a running emulator.
type Emulator struct {
	world     *world.World
	endpoints Endpoints
	servers   []*http.Server
	cancel    context.CancelFunc // ends requests that hang
	failed    chan error
}

// Start starts an emulator and returns when all surfaces answer. Call Close to stop it. ctx only
// bounds the start.
func Start(ctx context.Context, config Config) (*Emulator, error) {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if err := config.guard(); err != nil {
		return nil, err
	}
	kept, err := openDir(config.Dir, config.Now())
	if err != nil {
		return nil, err
	}
	w, err := config.world(kept)
	if err != nil {
		return nil, err
	}
	listeners, err := listen(ctx, config.ARMAddress, config.EntraAddress, config.IMDSAddress, config.ControlAddress)
	if err != nil {
		return nil, err
	}
	e := &Emulator{world: w, failed: make(chan error, len(listeners)), endpoints: config.endpoints(listeners)}
	e.endpoints.Dir, e.endpoints.CA, e.endpoints.World = kept.dir, kept.path(fileCA), kept.path(fileWorld)
	e.endpoints.Azure, e.endpoints.Cloud = kept.path(fileAzure), kept.path(fileCloud)
	cert, err := kept.authority.Server(config.names(e.endpoints), config.Now())
	if err == nil {
		err = kept.writeClientFiles(w, e.endpoints)
	}
	if err != nil {
		closeAll(listeners)
		return nil, err
	}
	e.serve(context.WithoutCancel(ctx), config, kept.keys, listeners, cert)
	return e, nil
}

// The order of the listeners.
const (
	onARM = iota
	onEntra
	onIMDS
	onControl
)

// world returns the world that the configuration selects.
func (c Config) world(kept *directory) (*world.World, error) {
	doc, err := kept.world(c.World)
	if err != nil {
		return nil, err
	}
	if c.Adjust != nil {
		c.Adjust(&doc)
	}
	w, err := world.New(doc, c.Now)
	if err != nil {
		return nil, fmt.Errorf("world: %w", err)
	}
	return w, nil
}

func listen(ctx context.Context, addresses ...string) ([]net.Listener, error) {
	var config net.ListenConfig
	var listeners []net.Listener
	for _, address := range addresses {
		l, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			closeAll(listeners)
			return nil, fmt.Errorf("listen: %w; choose another address, or port 0 for any free one", err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// serve starts the surfaces on their listeners.
func (e *Emulator) serve(ctx context.Context, config Config, keys *entra.Keys, listeners []net.Listener, cert tls.Certificate) {
	tokens := entra.NewTokens(keys, e.world, e.endpoints.Entra)
	armHandler := arm.NewHandler(e.world, tokens, arm.Endpoints{ARM: e.endpoints.ARM, Entra: e.endpoints.Entra}, config.Logger)
	entraHandler := entra.NewHandler(e.world, tokens)
	imdsHandler := imds.NewHandler(e.world, tokens)
	surface := func(name string, h http.Handler, writeError func(http.ResponseWriter, int, string, string), latency func(world.Settings) world.Duration) http.Handler {
		s := front.Surface{
			Name: name, World: e.world, Log: config.Logger, WriteError: writeError,
			Latency: func(s world.Settings) time.Duration { return time.Duration(latency(s)) },
		}
		return s.Handler(h)
	}
	handlers := map[int]http.Handler{
		onARM: surface(world.SurfaceARM, armHandler, armHandler.WriteError,
			func(s world.Settings) world.Duration { return s.ARM.Latency }),
		onEntra: surface(world.SurfaceEntra, entraHandler, entraHandler.WriteError,
			func(s world.Settings) world.Duration { return s.Entra.Latency }),
		onIMDS: surface(world.SurfaceIMDS, imdsHandler, imdsHandler.WriteError,
			func(s world.Settings) world.Duration { return s.IMDS.Latency }),
		onControl: control.NewServer(e.world),
	}
	base, cancel := context.WithCancel(ctx)
	e.cancel = cancel
	for i, listener := range listeners {
		server := &http.Server{
			Handler:           handlers[i],
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			BaseContext:       func(net.Listener) context.Context { return base },
			ErrorLog:          slog.NewLogLogger(config.Logger.Handler(), slog.LevelDebug), // mostly clients' TLS alerts
		}
		encrypted := i == onARM || i == onEntra
		if encrypted {
			server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		}
		e.servers = append(e.servers, server)
		go func() {
			err := error(nil)
			if encrypted {
				err = server.ServeTLS(listener, "", "")
			} else {
				err = server.Serve(listener)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				e.failed <- fmt.Errorf("serve %s: %w", listener.Addr(), err)
			}
		}()
	}
}

// Endpoints returns the emulator's addresses and files.
func (e *Emulator) Endpoints() Endpoints { return e.endpoints }

// World returns the state, for tests in the same process.
func (e *Emulator) World() *world.World { return e.world }

// Failed returns a channel with the error of a server that stopped unexpectedly.
func (e *Emulator) Failed() <-chan error { return e.failed }

// closeTime is how long Close waits for requests in progress.
const closeTime = 2 * time.Second

// Close stops the emulator. Requests in progress may finish within closeTime, unless ctx ends
// first.
func (e *Emulator) Close(ctx context.Context) error {
	e.cancel()
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	var errs []error
	for _, server := range e.servers {
		if err := server.Shutdown(ctx); err != nil {
			errs = append(errs, server.Close())
		}
	}
	return errors.Join(errs...)
}

module github.com/podid-io/podid/test/clients/adal-0.9

go 1.26.0

require (
	github.com/Azure/go-autorest/autorest/adal v0.9.24
	github.com/podid-io/podid/test/clients/report v0.0.0
)

require (
	github.com/Azure/go-autorest v14.2.0+incompatible // indirect
	github.com/Azure/go-autorest/autorest/date v0.3.0 // indirect
	github.com/Azure/go-autorest/logger v0.2.1 // indirect
	github.com/Azure/go-autorest/tracing v0.6.0 // indirect
	github.com/golang-jwt/jwt/v4 v4.5.0 // indirect
	golang.org/x/crypto v0.17.0 // indirect
)

replace github.com/podid-io/podid/test/clients/report => ../report
